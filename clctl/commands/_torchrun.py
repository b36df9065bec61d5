"""`--device all` and `cuda:0,1`: the same command once for each device, by torchrun's launcher."""

import logging
import os
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from clctl.commands._ranks import NOTE
from clctl.console import Exit, Problem

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"
GRACE = 60  # seconds that ranks get to save once they are told to end


def launch(arguments: list[str], count: int) -> int:
    """Run `clctl ARGUMENTS` as `count` ranks of this machine; gives the exit code of the first.

    Raises:
        Problem: Exit.RANK, naming it, if one was killed.
    """
    logging.disable(logging.ERROR)  # what ended them is told here, once
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory(prefix="clctl-ranks-") as folder:
        note = Path(folder) / "exit"
        os.environ[NOTE] = str(note)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=f"clctl-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle=SIGNALS,
            shutdown_timeout=GRACE,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "clctl", *arguments)
        except ChildFailedError as failed:
            return _code(failed.failures)
        except SignalException as signalled:
            return _noted(note, count, signalled)
    return int(Exit.OK)


def _code(failures: dict[int, ProcessFailure]) -> int:
    """What the ranks ended with; a killed one outweighs those that only missed it."""
    killed = {
        rank: f for rank, f in failures.items() if f.exitcode < 0 and f.signal_name() != "SIGTERM"
    }
    for rank, failure in killed.items():
        lost = Problem(
            f"rank {rank} (process {failure.pid}) was ended by {failure.signal_name()}",
            Exit.RANK,
            "ranks.lost",
            "the same command continues from the last checkpoint",
        )
        if 0 not in failures or failures[0].exitcode != Exit.RANK:
            raise lost
        # The first rank had time to miss it: with --json that document is the one on stdout.
        print(lost.text(), file=sys.stderr)
    return failures[min(failures)].exitcode


def _noted(note: Path, count: int, signalled: SignalException) -> int:
    """What the ranks noted before they ended, once the launcher itself was told to."""
    codes: list[int] = []
    for rank in range(count):
        path = note.with_name(f"{note.name}.{rank}")
        if not path.exists():
            raise Problem(
                f"rank {rank} did not save in the {GRACE} s after {signalled.sigval.name}",
                Exit.RANK,
                "ranks.lost",
                "the same command continues from the last checkpoint",
            )
        codes.append(int(path.read_text()))
    return codes[0]
