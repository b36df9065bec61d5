"""clctl bench: where the time of a training step goes, and what to change."""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clctl.commands import (
    _bench_batch,
    _bench_peaks,
    _bench_ranks,
    _bench_stages,
    _bench_trace,
    _bench_words,
    _memory,
    _ranks,
    _setup,
)
from clctl.commands._bench_stages import Loop, Times
from clctl.commands._launch import parts
from clctl.commands._memory import resident
from clctl.commands._training import Trainer
from clctl.console import Talk
from clctl.data.open import load
from clctl.distributed import largest, world
from clctl.images import DataSet
from clctl.recipe.read import find, read
from clctl.recipe.sections import Recipe
from clctl.report.document import Report
from clctl.store.run import Run

WARM = 3  # steps that warm caches up and are not timed
MOST, LEAST, SECONDS = 20, 3, 15.0  # steps that are timed unless told, and how long they may take


@dataclass(frozen=True)
class Order:
    """What was typed."""

    recipe: str
    overrides: tuple[str, ...] = ()
    data: str | None = None
    device: str = "auto"
    steps: int | None = None
    profile: Path | None = None


def bench(order: Order, talk: Talk, imported: float = 0.0) -> Report:
    """Train a few steps of a recipe in memory and time them; nothing but a trace is written.

    Args:
        imported: Seconds that loading torch and clctl took.
    """
    if order.profile is not None:
        _bench_trace.check(order.profile)
    recipe = read(find(order.recipe), order.overrides, order.data)
    where = _setup.machine(order.device, recipe.train.precision)
    begun = time.perf_counter()
    dataset = _ranks.in_turn(lambda: load(recipe.data, recipe.views.size, talk.say), talk)
    startup = {"import": imported, "data": time.perf_counter() - begun}
    try:
        with _memory.watched(where):
            return _bench(order, talk, recipe, dataset, where, startup)
    except _memory.Short as short:
        used, said = short.used, short.said
    raise _memory.told(used, said, recipe, where, talk)


def _bench(
    order: Order,
    talk: Talk,
    recipe: Recipe,
    dataset: DataSet,
    where: _setup.Machine,
    startup: dict[str, float],
) -> Report:
    if where.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where.device)
    batch, several = recipe.train.batch_size, world()[1] > 1
    count = WARM + 2 * (order.steps or MOST) + 1 + _bench_trace.STEPS
    begun = time.perf_counter()
    loop = _loop(recipe, dataset, where, talk, count)
    built = time.perf_counter()
    loop.step()
    _bench_stages.synchronise(where.device)
    startup |= {"build": built - begun, "first_step": time.perf_counter() - built}
    warmed = built
    for _ in range(1, WARM):
        warmed = time.perf_counter()
        loop.step()
    _bench_stages.synchronise(where.device)
    steps = order.steps or _few(time.perf_counter() - warmed, where.device)
    with talk.task(f"{recipe.name} step", steps) as show:
        times = loop.times(steps, lambda done: show(done, ""))
    step, memory = statistics.median(times.together), _most(where.device)
    compiling = max(0.0, startup["first_step"] - step) if recipe.train.compile else None
    ranks = None
    if several:
        sent = _bench_ranks.heard(loop)
        alone = _bench_ranks.replayed(sent, where.device)
        ranks = _bench_ranks.described(sent, alone, step, batch // world()[1])
    if order.profile is not None:
        _bench_trace.trace(loop, order.profile)
    loop.close()
    talk.say("measuring the device ...")
    top = _bench_peaks.peaks(where.device, where.amp)
    seen, forward = _bench_stages.one(loop.plan, loop.method)
    sums = _bench_peaks.arithmetic(forward, batch // world()[1])
    document = {
        "schema": "clctl/bench/1",
        **_about(recipe, dataset, where, len(seen.views)),
        "steps": steps,
        "images_per_second": batch / step,
        "seconds_per_step": step,
        "spread": _bench_stages.spread(times.together),
        "stages": _stages(times, batch),
        "waiting": statistics.median(times.waited),
        "memory": memory,
        "peaks": top,
        "arithmetic": {**sums, **_reached(sums, top, batch / step / world()[1])},
        "batch": None,
        "startup": {**startup, "compile": compiling},
        "ranks": ranks,
        "profile": None if order.profile is None else str(order.profile),
    }
    del loop, seen, forward
    # Ranks would have to agree on what is left out, and each batch is a compilation of its own.
    if not several and not recipe.train.compile:
        document["batch"] = _batches(order, recipe, dataset, where, talk, document)
    return _told(document)


def _batches(
    order: Order,
    recipe: Recipe,
    dataset: DataSet,
    where: _setup.Machine,
    talk: Talk,
    found: dict[str, Any],
) -> dict[str, Any]:
    """The same recipe with other batches."""

    def start(size: int, steps: int) -> Loop:
        change = f"train.batch_size={size}"
        other = read(find(order.recipe), (*order.overrides, change), order.data)
        return _loop(other, dataset, where, talk, steps)

    images = len(dataset.learnt(recipe.method.supervised))
    rate, kept = found["images_per_second"], found["arithmetic"]["kept_bytes_per_image"]
    batch = recipe.train.batch_size
    return _bench_batch.sweep(batch, rate, images, kept, start, where, talk)


def _told(document: dict[str, Any]) -> Report:
    """The document with its bottleneck, and both in words."""
    able = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if able else os.cpu_count() or 1
    name, share, sentence = _bench_words.bottleneck(document, cores // world()[1])
    document |= {"slowest": {"stage": name, "share": share}, "bottleneck": sentence}
    return Report(document, _bench_words.table(document), f"{document['images_per_second']:.1f}")


def _loop(recipe: Recipe, dataset: DataSet, where: _setup.Machine, talk: Talk, steps: int) -> Loop:
    """The loop that `pretrain` would run, at its first step; its folder is never made."""
    split = dataset.learnt(recipe.method.supervised)
    method, feed, optimizer = parts(recipe, split, where)
    trainer = Trainer(
        recipe=recipe,
        method=method,
        optimizer=optimizer,
        split=split,
        feed=feed,
        where=where,
        run=Run(Path(recipe.name)),
        about={},
        manifest={},
        talk=talk,
    )
    return Loop(trainer.plan, method, optimizer, steps)


def _about(recipe: Recipe, dataset: DataSet, where: _setup.Machine, views: int) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "encoder": recipe.encoder.name,
        "data": dataset.name,
        "batch_size": recipe.train.batch_size,
        "views": views,
        "size": recipe.views.size,
        "threads": torch.get_num_threads(),
        **_setup.environment(where),
    }


def _few(step: float, device: torch.device) -> int:
    """How many steps that take `step` seconds are timed; the same on all ranks."""
    slowest = float(largest(torch.tensor(step, device=device)))
    return min(MOST, max(LEAST, int(SECONDS / slowest)))


def _stages(times: Times, batch: int) -> dict[str, dict[str, float | None]]:
    """Median seconds per step, images per second and share of all stages; and all together.

    The stages add up to less than "together" or to more where a device works ahead of them.
    """
    alone = {name: statistics.median(found) for name, found in times.stages.items()}
    whole = sum(alone.values())
    shares = {name: seconds / whole for name, seconds in alone.items()}
    alone["together"] = statistics.median(times.together)
    return {
        name: {
            "seconds_per_step": seconds,
            "images_per_second": batch / seconds if seconds > 0 else None,
            "share": shares.get(name, 1.0),
        }
        for name, seconds in alone.items()
    }


def _reached(sums: dict[str, float], top: dict[str, Any], rate: float) -> dict[str, float | None]:
    """What training at `rate` images per second of this process does of both peaks."""
    flops, moved = sums["flops_per_image"] * rate, sums["bytes_per_image"] * rate
    products, copies = top["matmul_flops"], top["copy_bytes_per_second"]
    return {
        "flops": flops,
        "bytes_per_second": moved,
        "of_matmul": products and flops / products,
        "of_copy": copies and moved / copies,
    }


def _most(device: torch.device) -> dict[str, int | None]:
    """The most memory of this process so far, in bytes."""
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"rss_bytes": resident(), "cuda_bytes": cuda}
