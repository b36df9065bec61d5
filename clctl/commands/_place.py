"""Which of a run's processes this is, by what started it: torchrun, a SLURM job step, or nobody."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from clctl.console import Exit, Problem


@dataclass(frozen=True)
class Place:
    """One process of several.

    Attributes:
        rank: Its number in all; 0 leads.
        size: How many there are.
        local: Its number on its machine.
        address: "host:port" where they meet.
    """

    rank: int
    size: int
    local: int
    address: str


def place(environment: Mapping[str, str]) -> Place | None:
    """What the environment says of this process; None where it is alone.

    Read are the variables of torchrun, and of SLURM only inside a job step of several tasks: a
    bare command in an interactive allocation never waits for ranks.

    Raises:
        Problem: Exit.USAGE if they contradict each other.
    """
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    slurm = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST")
    if all(name in environment for name in torchrun):
        rank, size, local, host, port = (environment[name] for name in torchrun)
    elif all(name in environment for name in slurm):
        rank, size, local, nodes = (environment[name] for name in slurm)
        if size == "1":
            return None
        host = environment.get("MASTER_ADDR", _first(nodes))
        job = int(environment.get("SLURM_JOB_ID", "0"))
        port = environment.get("MASTER_PORT", str(20_000 + job % 20_000))
    else:
        return None
    numbers = [rank, size, local, port]
    if not all(n.isdecimal() for n in numbers) or int(rank) >= int(size):
        raise Problem(
            f"the environment says rank {rank} of {size} (local {local}, port {port})",
            Exit.USAGE,
            "ranks.environment",
            "start the ranks with torchrun, or unset RANK and WORLD_SIZE",
        )
    return Place(int(rank), int(size), int(local), f"{host}:{port}")


def _first(nodes: str) -> str:
    """The first host of a SLURM list such as "gpu[03-07,12],big1"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return nodes if found is None else found[1] + (found[2] or "")


def wanted(choice: str) -> int:
    """How many ranks `--device` asks this process to start; 0 where it trains by itself.

    Raises:
        Problem: As `device` does for any of them: better one process says so than each.
    """
    if place(os.environ) is not None:
        return 0
    count = len(choice.split(",")) if choice.startswith("cuda:") else 1
    if choice == "all" and torch.cuda.is_available():
        count = torch.cuda.device_count()
    if count < 2:
        return 0
    for local in range(count):
        device(choice, local)
    return count


def device(choice: str, local: int) -> str:
    """The `--device` of one rank: its own GPU where there is one for each.

    Raises:
        Problem: Exit.USAGE if one GPU was named for all, or fewer than there are ranks;
            Exit.RESOURCES if its own is not there.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = choice.removeprefix("cuda:").replace("cuda:", "").split(",")
    if not choice.startswith("cuda:"):
        if choice != "cuda" and (choice not in ("auto", "all") or not cards):
            return choice
        index = str(local)
    elif len(named) == 1:
        raise Problem(
            f"--device {choice} would put every rank on one GPU",
            Exit.USAGE,
            "device.several",
            "--device cuda: each rank takes its own",
        )
    elif local >= len(named) or not named[local].isdecimal():
        raise Problem(
            f"--device {choice} names no GPU for rank {local} of this machine",
            Exit.USAGE,
            "device.several",
            "--device cuda:0,1 names two by their numbers; --device cuda: each rank takes its own",
        )
    else:
        index = named[local]
    if int(index) >= cards:
        raise Problem(
            f"cuda:{index}, for rank {local} of this machine, is not there: "
            f"torch {torch.__version__} sees {cards} CUDA devices here",
            Exit.RESOURCES,
            "device.absent",
            "start as many ranks as there are GPUs; --device cpu uses none",
        )
    return f"cuda:{index}"
