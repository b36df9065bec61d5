"""What ranks send each other in one step: counted as it happens, then timed by itself."""

import statistics
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clctl.commands._bench_stages import Loop, synchronise
from clctl.distributed import wait, world

REPEATS = 5
GRADIENTS, BACKWARD = "gradients of the weights", "backward of the others"
NAMES: dict[str, str] = {"allreduce_": "all_reduce", "allgather_": "all_gather"}


@dataclass(frozen=True)
class Sent:
    """One call of a collective.

    Attributes:
        name: all_reduce, all_gather, or what torch calls another one.
        purpose: Who asked: a module of clctl, GRADIENTS or BACKWARD.
        shape, dtype: Of what this rank gave.
    """

    name: str
    purpose: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What this rank gave."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class _Heard(TorchDispatchMode):
    """Hears every collective, those of DistributedDataParallel's own code among them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Sent] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            name = str(func.__name__).partition(".")[0]
            given = args[1] if "gather" in name and len(args) > 1 else args[0]
            purpose = _purpose()
            for x in tree_leaves(given):
                if isinstance(x, Tensor):
                    known = NAMES.get(name, name)
                    self.calls.append(Sent(known, purpose, tuple(x.shape), x.dtype))
        return func(*args, **(kwargs or {}))


def _purpose() -> str:
    """Who asks for the collective that is being called, by the functions that are under way."""
    frame, through, shared = sys._getframe(2), False, ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "clctl.engine":
            break
        if module == "clctl.distributed":
            through = True
        elif module.startswith("clctl."):
            shared = shared or module.removeprefix("clctl.")
            if not module.rpartition(".")[2].startswith("_"):
                return module.removeprefix("clctl.")
        frame = frame.f_back
    return shared or (BACKWARD if through else GRADIENTS)


def heard(loop: Loop) -> list[Sent]:
    """The collectives of the loop's next step, on every rank; not of its first two, in which
    DistributedDataParallel sorts its buckets.
    """
    with warnings.catch_warnings(), _Heard() as listener:
        # Who listens gets gradients of another memory order than who does not.
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        loop.step()
    return listener.calls


def replayed(calls: list[Sent], device: torch.device) -> float:
    """Median seconds of these collectives one after the other, with nothing else to do."""
    several = range(world()[1])
    work = [(sent.name, torch.zeros(sent.shape, dtype=sent.dtype, device=device)) for sent in calls]
    taken = list[float]()
    for _ in range(1 + REPEATS):
        wait()
        begun = time.perf_counter()
        for name, x in work:
            if name == "all_reduce":
                dist.all_reduce(x)
            elif name == "all_gather":
                dist.all_gather([torch.empty_like(x) for _ in several], x)
        synchronise(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def described(calls: list[Sent], seconds: float, step: float, images: int) -> dict[str, Any]:
    """Both for the report; `step` is the whole step, of which each rank has `images`."""
    count, size = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for sent in calls:
        count[sent.name, sent.purpose] += 1
        size[sent.name, sent.purpose] += sent.bytes
    return {
        "count": world()[1],
        "images_each": images,
        "collectives": [
            {"name": name, "for": purpose, "calls": n, "bytes": size[name, purpose]}
            for (name, purpose), n in count.items()
        ],
        "gradient_bytes": sum(sent.bytes for sent in calls if sent.purpose == GRADIENTS),
        "bytes_per_step": sum(sent.bytes for sent in calls),
        "seconds_per_step": seconds,
        "share": seconds / step,
    }
