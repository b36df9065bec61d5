"""The Chrome trace of `clctl bench --profile`."""

import os
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from clctl.commands._bench_stages import Loop, synchronise
from clctl.commands._launch import check_writable
from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.store import files

STEPS = 3


def check(path: Path) -> None:
    """Refuse a place for a trace before anything is measured: a Problem."""
    if path.suffix != ".json" or path.is_dir():
        raise Problem(
            f"{path} is no name for a trace, which is a .json file",
            Exit.USAGE,
            "usage.suffix",
            f"--profile {path / 'trace.json' if path.is_dir() else path.with_suffix('.json')}",
        )
    check_writable(path.parent)


def trace(loop: Loop, path: Path) -> None:
    """Write a Chrome trace of the next steps; of several ranks the first alone writes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would talk of each start and stop
    wanted = [ProfilerActivity.CPU]
    if loop.device.type == "cuda":
        wanted.append(ProfilerActivity.CUDA)
    with profile(activities=wanted) as traced:
        for _ in range(STEPS):
            loop.step()
        synchronise(loop.device)
    if world()[0] > 0:
        return
    with tempfile.TemporaryDirectory(prefix="clctl-trace-") as folder:
        draft = Path(folder) / path.name
        traced.export_chrome_trace(str(draft))
        files.make(path.parent)
        files.write(path, draft.read_bytes())
