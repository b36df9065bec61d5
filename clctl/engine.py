"""The training loop. It knows nothing of any particular method, data set or view."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.method import Batch, Clock, Method, Step
from clctl.rng import seed_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the loop needs, already built.

    Attributes:
        batches: First step -> raw batches from that step on; a pure function of the step.
        views: Raw batch and step -> the batch of views that a method sees; likewise.
        lr: Clock -> learning rate of scheduled parameter groups.
        peak: Learning rate of the others.
        amp: Type of autocast, or None for float32.
    """

    seed: int
    total: int
    per_epoch: int
    device: torch.device
    batches: Callable[[int], Iterator[Any]]
    views: Callable[[Any, int], Batch]
    lr: Callable[[Clock], float]
    peak: float
    amp: torch.dtype | None = None


@dataclass(frozen=True)
class Tick:
    """One step behind us. Nothing in it has left the device yet.

    Attributes:
        step: Steps done, this one included.
        waited: Seconds that this step waited for its raw batch.
    """

    step: int
    lr: float
    out: Step
    finite: Tensor
    waited: float

    def fetch(self) -> dict[str, float]:
        """Loss and metrics of this step, in one transfer.

        Raises:
            Problem: If the loss of this or an earlier step since the start was not finite.
        """
        names = ["loss", *self.out.metrics]
        values = [self.out.loss.detach(), *self.out.metrics.values(), self.finite]
        *numbers, finite = torch.stack([v.float() for v in values]).tolist()
        if not finite:
            raise Problem(
                f"the loss is not finite at or before step {self.step}",
                Exit.NUMERICS,
                "train.not-finite",
                "lower optimizer.lr or lengthen schedule.warmup; "
                "the last checkpoint is from before it happened",
            )
        return {"step": self.step, "lr": self.lr, **dict(zip(names, numbers, strict=True))}


def train(plan: Plan, method: Method, optimizer: Optimizer, start: int = 0) -> Iterator[Tick]:
    """Run the steps from `start` to the last, one Tick each.

    The caller logs, saves and stops between ticks. With the state of step `start` restored,
    the ticks equal those of a run that was never stopped, bit for bit on one kind of machine.
    """
    rank, _ = world()
    method.train()
    finite = torch.ones((), dtype=torch.bool, device=plan.device)
    batches = plan.batches(start)
    for step in range(start, plan.total):
        clock = Clock(step, plan.total, plan.per_epoch, plan.device)
        before = time.perf_counter()
        raw = next(batches)
        waited = time.perf_counter() - before
        batch = plan.views(raw, step)
        if not method.uses_labels:
            batch = replace(batch, labels=None)
        torch.manual_seed(seed_of(plan.seed, "model", step, rank))  # dropout and the like
        lr = plan.lr(clock)
        for group in optimizer.param_groups:
            group["lr"] = lr if group["scheduled"] else plan.peak
        with torch.autocast(plan.device.type, plan.amp, enabled=plan.amp is not None):
            out = method(batch, clock)
        out.loss.backward()
        method.before_step(clock)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(out, clock)
            finite = finite & torch.isfinite(out.loss.detach())
        yield Tick(step + 1, lr, out, finite, waited)
