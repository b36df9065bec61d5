"""Weights of other programs in pickled files (.pth, .pt, .ckpt), opened in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clctl.console import Exit, Problem
from clctl.store import reading, tensors

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 16 << 30  # bytes of a file
SECONDS = 600
_SCRIPT = Path(__file__).with_name("unpickle.py")
# What python and torch need to start; everything else of the environment stays here.
_PASSED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR")


def read(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a file of torch.save, on the CPU, named by their keys with dots between.

    Raises:
        Problem: Exit.CHECKPOINT, code checkpoint.foreign-refused, if it holds anything but plain
            values and tensors, is damaged, or takes more memory or time than its size explains.
    """
    with reading.opened(path) as handle:
        size = os.fstat(handle).st_size
    if not 0 < size <= LARGEST:
        raise _refused(path, "it is empty" if size == 0 else f"it has {size:,} bytes")
    with tempfile.TemporaryDirectory(prefix="clctl-") as folder:
        target = Path(folder) / "tensors.safetensors"
        # Isolated from the folder that the user is in: no torch.py of it is imported.
        command = [sys.executable, "-P", str(_SCRIPT), str(path.absolute()), str(target)]
        kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd=folder,
                env={**kept, "OMP_NUM_THREADS": "1"},
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise _refused(path, f"it was not read within {SECONDS} s") from error
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()
            died = f"the process that opened it ended with {done.returncode}"
            raise _refused(path, said[-500:] or died)
        return tensors.read(target)[0]


def _refused(path: Path, reason: str) -> Problem:
    return Problem(
        f"{path} was not opened: {reason}",
        Exit.CHECKPOINT,
        "checkpoint.foreign-refused",
        "where it was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
    )
