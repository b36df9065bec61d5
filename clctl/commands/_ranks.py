"""The processes of one run: which of them this is, how they meet, and what is said if one is lost.

torchrun starts them (or `_torchrun`, for `--device all`), or a SLURM job step of several tasks.
All run the same command on the same data in step; the first alone talks and writes.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from clctl.commands._place import Place, device, place
from clctl.commands._stop import seconds
from clctl.console import Exit, Problem, Talk
from clctl.distributed import world

TIMEOUT = "CLCTL_RANK_TIMEOUT"  # how long a collective waits for a rank, such as 10m
NOTE = "CLCTL_EXIT_NOTE"  # a file for the exit code, for a launcher that is told to end
Loaded = TypeVar("Loaded")

GRACE = 3.0  # seconds in which ranks that live answer, once one is missed


@dataclass
class Member:
    """This process among the ranks.

    Attributes:
        device: Its `--device`.
        follows: Whether it is one of several and not the first: it neither talks nor writes.
        code: What it will exit with.
    """

    device: str
    follows: bool = False
    code: int = Exit.BUG


@contextmanager
def together(choice: str) -> Iterator[Member]:
    """Join the other processes inside the block, if there are any.

    Raises:
        Problem: Exit.RANK, naming those that are missed, if a rank died or hung.
    """
    here = place(os.environ)
    if here is None:
        yield Member(choice)
        return
    own = device(choice, here.local)
    backend = "nccl" if own.startswith("cuda") else "gloo"
    if own.startswith("cuda"):
        torch.cuda.set_device(torch.device(own))
    patience = timedelta(seconds=seconds(os.environ.get(TIMEOUT, "10m"), f"{TIMEOUT}="))
    store = _met(here, backend, patience)
    member = Member(own, here.rank > 0)
    try:
        yield member
    except Problem as problem:
        member.code = problem.exit
        _one_voice(here, store, problem)
        raise
    except Exception as error:
        if not _of_ranks(error):
            raise
        member.code = Exit.RANK
        raise _missed(here, store, error) from error
    finally:
        with suppress(Exception):  # where the others are gone, there is nobody to tell
            _part(here, store, member.code)


def _met(here: Place, backend: str, patience: timedelta) -> dist.Store:
    try:
        url = "env://" if "MASTER_PORT" in os.environ else f"tcp://{here.address}"
        found, *_ = next(iter(dist.rendezvous(url, here.rank, here.size, timeout=patience)))
        # A launcher that starts the ranks again keeps its store, with what the dead left in it.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", found)
        dist.init_process_group(
            backend, store=store, rank=here.rank, world_size=here.size, timeout=patience
        )
    except Exception as error:
        raise Problem(
            f"rank {here.rank} of {here.size} could not meet the others at {here.address}: "
            f"{str(error).splitlines()[0]}",
            Exit.RANK,
            "ranks.no-meeting",
            f"see that all are started and reach that address; {TIMEOUT}=30m waits longer",
        ) from error
    return _store()


def _store() -> dist.Store:
    return cast(Any, dist.distributed_c10d)._get_default_store()


def in_turn(load: Callable[[], Loaded], talk: Talk) -> Loaded:
    """`load()`, by the first process of a machine alone, and then by the others from its cache."""
    here = place(os.environ)
    if here is None or world()[1] == 1:
        return load()
    store = _store()
    key = f"clctl/loaded/{socket.gethostname()}"
    if here.local == 0:
        talk.say(f"rank 0 of {here.size} opens the data; the others of its machine wait for it")
        found = load()
        store.set(key, "1")
        return found
    # Polled, for a set may take hours to decode, which is no reason to think its builder dead.
    while not store.check([key]):
        time.sleep(0.2)
    return load()


def told_by_first(what: str, find: Callable[[], Path | None]) -> Path | None:
    """What `find` gives on the first rank, on all of them.

    Raises:
        Problem: Exit.RESOURCES if another rank does not see that path.
    """
    if world()[1] == 1:
        return find()
    store, key = _store(), f"clctl/told/{what}"
    if world()[0] == 0:
        path = find()
        store.set(key, "" if path is None else str(path.absolute()))
        return path
    while not store.check([key]):
        time.sleep(0.05)
    word = store.get(key).decode()
    if word and not Path(word).exists():
        raise Problem(
            f"{word} is not there for rank {world()[0]} on {socket.gethostname()}",
            Exit.RESOURCES,
            "ranks.no-shared-folder",
            "give an --out on a disk that all machines share",
        )
    return Path(word) if word else None


def _one_voice(here: Place, store: dist.Store, problem: Problem) -> None:
    """Where all ranks have one and the same problem, the first tells it; else say whose it is."""
    store.set(f"clctl/problem/{here.rank}", problem.message)
    if here.rank == 0:
        return
    first, until = "clctl/problem/0", time.monotonic() + GRACE
    while not store.check([first]) and time.monotonic() < until:
        time.sleep(0.1)
    told = store.check([first])
    if told and (store.get(first).decode() == problem.message or problem.code == "interrupted"):
        raise SystemExit(int(problem.exit))
    problem.message = f"rank {here.rank} on {socket.gethostname()}: {problem.message}"


def _of_ranks(error: Exception) -> bool:
    """Whether torch means that it lost another process."""
    words = str(error)
    known = (
        "gloo",
        "NCCL",
        "onnection closed",
        "onnection reset",
        "Timed out waiting",
        "ProcessGroup",
    )
    return isinstance(error, dist.DistError) or any(word in words for word in known)


def _missed(here: Place, store: dist.Store, error: Exception) -> Problem:
    """Name the ranks that do not answer."""
    reason = str(error).strip().splitlines()[0][:200]
    gone = "another rank"
    with suppress(Exception):  # the store may be gone with the rank that held it
        store.set(f"clctl/alive/{here.rank}", socket.gethostname())
        time.sleep(GRACE)
        silent = [r for r in range(here.size) if not store.check([f"clctl/alive/{r}"])]
        if silent:
            gone = "rank " + ", ".join(str(r) for r in silent)
    return Problem(
        f"{gone} of {here.size} died or hung: {reason}",
        Exit.RANK,
        "ranks.lost",
        "look for its last lines above or in its machine's log; the same command continues from "
        "the last checkpoint",
    )


def _part(here: Place, store: dist.Store, code: int) -> None:
    """The others stay until the first has had its say: whoever ends first ends them all."""
    if note := os.environ.get(NOTE):
        with open(f"{note}.{here.rank}", "w", encoding="ascii") as file:
            file.write(str(int(code)))
    if code in (Exit.OK, Exit.PREEMPTED, Exit.INTERRUPTED) and here.rank > 0:
        until = time.monotonic() + 60
        while not store.check(["clctl/said"]) and time.monotonic() < until:
            time.sleep(0.05)
    elif here.rank == 0:
        store.set("clctl/said", "1")
    dist.destroy_process_group()
