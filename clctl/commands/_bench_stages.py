"""The steps of a run, timed: each stage of the engine's own loop, and all of it together."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clctl.engine import Plan, Tick, train
from clctl.method import Batch, Clock, Method, Step

STAGES: tuple[str, ...] = ("data", "views", "forward", "backward", "optimizer", "after", "rest")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; a processor always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def spread(seconds: Sequence[float]) -> float:
    """The middle half of some times over their median: 0 where all are alike."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


@dataclass(frozen=True)
class Times:
    """What steps took, one entry per step, in seconds.

    Attributes:
        stages: Each of STAGES, the device idle before and after it.
        together: Whole steps as they follow each other in training.
        waited: Share of a whole step that went by until its raw batch was there.
    """

    stages: dict[str, list[float]]
    together: list[float]
    waited: list[float]


class Loop:
    """`engine.train`, taken step by step, with a stopwatch at the seams of its stages.

    The engine itself runs, on what it is always given; only the functions that it calls are
    wrapped. So a stage is what the engine does from one of these calls to the next: gradients are
    edited and clipped in "optimizer", and "rest" is what lies between the others.
    """

    def __init__(self, plan: Plan, method: Method, optimizer: Optimizer, steps: int) -> None:
        """`steps`: how many will be asked for, beyond the end of a short run if need be."""
        self.plan = replace(plan, total=max(plan.total, steps))
        self.method, self.device = method, plan.device
        self._apart = False
        self._last, self._spent = time.perf_counter(), dict.fromkeys(STAGES, 0.0)
        setattr(method, "before_step", self._timed(method.before_step, "backward", "optimizer"))  # noqa: B010
        setattr(method, "after_step", self._timed(method.after_step, "optimizer", "after"))  # noqa: B010
        views: Callable[[Any, int], Batch] = self._timed(plan.views, "rest", "views")
        marked = replace(self.plan, batches=self._batches, views=views, compiled=self._forward)
        self._ticks = train(marked, method, optimizer)

    def step(self) -> Tick:
        """Take the next step."""
        tick = next(self._ticks)
        self._lap("rest")
        return tick

    def close(self) -> None:
        """Leave the engine; its wrapper around several ranks goes with it."""
        self._ticks.close()  # type: ignore[attr-defined]  # a generator

    def times(self, steps: int, told: Callable[[int], None] = lambda done: None) -> Times:
        """Time the next steps; on a device that works on its own, first apart, then together."""
        stages: dict[str, list[float]] = {name: [] for name in STAGES}
        together, ticks = list[float](), list[Tick]()
        self._apart = True
        for i in range(steps):
            self._spent = dict.fromkeys(STAGES, 0.0)
            self._last = begun = time.perf_counter()
            ticks.append(self.step())
            together.append(time.perf_counter() - begun)
            for name in STAGES:
                stages[name].append(self._spent[name])
            told(i + 1)
        self._apart = False
        if self.device.type != "cpu":
            ticks, together = self._flowing(steps)
        waited = [t.waited / took for t, took in zip(ticks, together, strict=True)]
        return Times(stages, together, waited)

    def _flowing(self, steps: int) -> tuple[list[Tick], list[float]]:
        """Steps without a wait between them, as in training, timed by the device's own clock."""
        if self.device.type != "cuda":  # its clock cannot be asked: one time for all of them
            begun = time.perf_counter()
            ticks = [self.step() for _ in range(steps)]
            synchronise(self.device)
            return ticks, [(time.perf_counter() - begun) / steps] * steps
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        marks[0].record()
        ticks = list[Tick]()
        for mark in marks[1:]:
            ticks.append(self.step())
            mark.record()
        synchronise(self.device)
        return ticks, [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]

    def _lap(self, stage: str) -> None:
        """Give the time since the last call to `stage`."""
        if self._apart:
            synchronise(self.device)
        now = time.perf_counter()
        self._spent[stage] += now - self._last
        self._last = now

    def _timed(self, call: Callable[..., Any], before: str, own: str) -> Callable[..., Any]:
        """`call` as the stage `own`; what came before it was the stage `before`."""

        def timed(*given: Any) -> Any:
            self._lap(before)
            found = call(*given)
            self._lap(own)
            return found

        return timed

    def _forward(self, method: nn.Module) -> Callable[[Batch, Clock], Step]:
        compiled = self.plan.compiled
        return self._timed(method if compiled is None else compiled(method), "rest", "forward")

    def _batches(self, start: int) -> Iterator[Any]:
        inner = self.plan.batches(start)
        while True:
            self._lap("rest")
            raw = next(inner)
            self._lap("data")
            yield raw


def one(plan: Plan, method: Method, step: int = 0) -> tuple[Batch, Callable[[], Step]]:
    """The batch of one step, and the forward pass over it as the engine does it."""
    batch = plan.views(next(plan.batches(step)), step)
    if not method.uses_labels:
        batch = replace(batch, labels=None)
    clock = Clock(step, plan.total, plan.per_epoch, plan.device, plan.seed)

    def forward() -> Step:
        with torch.autocast(plan.device.type, plan.amp, enabled=plan.amp is not None):
            return method(batch, clock)

    return batch, forward
