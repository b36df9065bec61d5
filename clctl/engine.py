"""The training loop. It knows nothing of any particular method, data set or view."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.method import Batch, Clock, Method, Step
from clctl.nn.spread import spread
from clctl.rng import seed_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the loop needs, already built.

    Attributes:
        batches: First step -> raw batches from that step on; a pure function of the step.
        views: Raw batch and step -> the batch of views that a method sees; likewise.
        lr: Clock -> learning rate of scheduled parameter groups.
        peak: Learning rate of the others.
        decay: Clock -> weight decay of the groups that have one.
        clip_norm: Largest norm of all gradients together, or None.
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
    decay: Callable[[Clock], float] | None = None
    clip_norm: float | None = None
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
        """Loss, metrics and spread of the projections of this step, in one transfer.

        Raises:
            Problem: If the loss of this or an earlier step since the start was not finite.
        """
        readings = dict(self.out.metrics)
        if "projections" in self.out.watch:
            readings["spread"] = spread(self.out.watch["projections"])
        names = ["loss", *readings]
        values = [self.out.loss.detach(), *readings.values(), self.finite]
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
        clock = Clock(step, plan.total, plan.per_epoch, plan.device, plan.seed)
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
            if plan.decay is not None and group["adapt"]:
                group["weight_decay"] = plan.decay(clock)
        with torch.autocast(plan.device.type, plan.amp, enabled=plan.amp is not None):
            out = method(batch, clock)
        out.loss.backward()
        method.before_step(clock)
        if plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.parameters(), plan.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(out, clock)
            finite = finite & torch.isfinite(out.loss.detach())
        yield Tick(step + 1, lr, out, finite, waited)
