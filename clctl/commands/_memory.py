"""When memory runs out: how much was in use, and the largest batch that fits, tried out."""

import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import torch

from clctl.commands._setup import Machine
from clctl.console import Exit, Problem, Talk, out_of_memory
from clctl.distributed import world
from clctl.recipe import identity
from clctl.recipe.sections import Recipe

PATIENCE = 300.0  # seconds that one trial may take

# As in `doctor`, the child gets this process's own search path.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from clctl.commands._fitting import main; main()"
)


class Short(Exception):
    """Memory ran out in training."""

    code = "memory.out"

    def __init__(self, used: str, said: str) -> None:
        super().__init__(said)
        self.used, self.said = used, said


@contextmanager
def watched(where: Machine) -> Iterator[None]:
    """Tells a want of memory inside the block as Short."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Short(in_use(where.device), first_line(error)) from error


@contextmanager
def scoring(run: Path) -> Iterator[None]:
    """Tells a want of memory inside the block, which scores a run that is trained and saved."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Problem(
            f"not enough memory to score the run, which is trained and saved: {first_line(error)}",
            Exit.RESOURCES,
            Short.code,
            f"clctl knn-eval {quote(str(run))} --device cpu, or on a machine with more",
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def told(used: str, said: str, recipe: Recipe, where: Machine, talk: Talk) -> Problem:
    """What to do about it; a smaller batch is tried out, never taken.

    Args:
        used, said: As in Short, whose traceback would hold on to the memory that is missing.
    """
    batch, size = recipe.train.batch_size, recipe.views.size
    gc.collect()
    if where.device.type == "cuda":
        torch.cuda.empty_cache()
    # Several ranks share a batch and maybe a card, which one trial process does not tell.
    fits = largest(recipe, where.device, talk) if world()[1] == 1 else None
    advice = "--set train.batch_size=N with a smaller N; no trial could tell which"
    if fits == 0:
        advice = "no smaller batch fits, not even of 2: lower views.size, or take a smaller encoder"
    elif fits is not None:
        advice = (
            f"--set train.batch_size={fits}: two whole steps of it fit here, tried by halving; "
            "it changes what is learnt, so it is a run of its own"
        )
    return Problem(
        f"not enough memory for a batch of {batch} at {size} px on {where.words}; {used}: {said}",
        Exit.RESOURCES,
        Short.code,
        advice,
    )


def largest(recipe: Recipe, device: torch.device, talk: Talk) -> int | None:
    """The largest half, quarter, ... of the batch with which two steps fit; 0 if none does.

    None where a trial took too long to tell.

    Each is tried by a process of its own, which the system may kill without harm to this one.
    """
    document = identity.resolved(recipe)
    document["encoder"]["weights"] = None  # their values need no more than random ones
    batch = recipe.train.batch_size // 2
    while batch >= 2:
        talk.say(f"out of memory; trying a batch of {batch} ...")
        document["train"]["batch_size"] = batch
        job = json.dumps({"recipe": document, "device": str(device)})
        command = [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path)]
        try:
            done = subprocess.run(
                command, input=job, text=True, capture_output=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode == 0:
            return batch
        batch //= 2
    return 0


def peak(device: torch.device) -> str:
    """The most memory that this process has used so far, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU"
    return f"{resident() / 2**30:.1f} GiB"


def resident() -> int:
    """The most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what held the process that started this one, which Linux passes on.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def in_use(device: torch.device) -> str:
    """The most memory that was in use, beside what there is, in words."""
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1] / 2**30
        return f"{peak(device)} in use, of {there:.1f} GiB"
    import os
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        return f"{peak(device)} in use, and ulimit -v allows {limit / 2**30:.1f} GiB of addresses"
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{peak(device)} in use, of {there:.1f} GiB"
