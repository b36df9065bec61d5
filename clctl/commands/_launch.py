"""The start of a run: its parts, whether its folder can be written, how it was begun."""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from clctl import optim
from clctl.commands import _compiled, _setup
from clctl.console import Exit, Problem
from clctl.data.feed import Feed
from clctl.distributed import world
from clctl.images import Split
from clctl.method import Encoder, Method
from clctl.nn.narrow import guard_strides
from clctl.nn.norm import synchronised
from clctl.recipe.sections import Recipe
from clctl.views.apply import colors_on


def parts(
    recipe: Recipe,
    split: Split,
    where: _setup.Machine,
    begin: Callable[[Encoder], None] = lambda encoder: None,
) -> tuple[Method, Feed, Optimizer]:
    """What a run trains and what it trains on, on the device; `begin` as for `_setup.method`."""
    if recipe.train.compile:
        _compiled.check(where.device)
    if where.device.type == "cpu":
        _keep_freed_memory()
    colors_on(recipe.views, where.device)  # refused here rather than at the first batch
    method = _setup.method(recipe, len(split), begin)
    if where.device.type == "cpu":
        guard_strides(method)
    wants = (method.uses_labels, method.per_class)
    feed = Feed(split, recipe.train.batch_size, recipe.seed, where.device, *wants)
    channels_last = {"memory_format": torch.channels_last}
    if world()[1] > 1:
        synchronised(method)  # it stays the object that it is
    method = method.to(where.device).to(**channels_last)  # type: ignore[call-overload]
    return method, feed, optim.build(recipe.optimizer, method)


def _keep_freed_memory() -> None:
    """Let glibc give the memory of one step to the next instead of back to the system.

    Else each step asks anew for every page of its larger tensors: 6 % of the time of SimCLR with
    `resnet_small` at batch 256, 18 % at 2,048, where this takes a quarter more memory in turn.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # macOS and musl have none
    if mallopt is not None:
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap, too


def check_writable(folder: Path) -> None:
    """Refuse before anything is made rather than at the first checkpoint."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise Problem(
            f"{folder} cannot be written: {nearest} is not a folder that you may write to",
            Exit.RESOURCES,
            "run.not-writable",
            "give an --out elsewhere",
        )


def launch(
    overrides: Sequence[str], data: str | None, init_from: str | None, where: _setup.Machine
) -> dict[str, Any]:
    """For run.json."""
    return {
        "command": sys.argv[1:],
        "overrides": list(overrides),
        "data": data,
        "init_from": init_from and str(Path(init_from).absolute()),
        "device": where.words,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
    }


def again(
    recipe: Recipe, named: str, overrides: Sequence[str], given: Mapping[str, object]
) -> list[str]:
    """The command of this launch, for a run in another folder.

    Args:
        named: The recipe as it was typed, or that of the run folder that was.
        given: Options and what they were given, such as {"--data": "photos"}.
    """
    words = ["clctl", "pretrain", named]
    changes = [c for c in overrides if not c.startswith("encoder.weights=")]
    if recipe.encoder.weights is not None:
        changes.append("encoder.weights=null")  # --init-from takes its place
    words += [word for change in changes for word in ("--set", change)]
    return words + [str(w) for pair in given.items() if pair[1] not in (None, "auto") for w in pair]
