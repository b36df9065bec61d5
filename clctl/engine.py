"""The training loop. It knows nothing of any particular method, data set or view.

Of several processes each takes its own rows of the global batch; DistributedDataParallel averages
the gradients while backward is under way, and the method sees to the rest.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from clctl.console import Exit, Problem
from clctl.distributed import gather, largest, live, mean, world
from clctl.method import Batch, Clock, Method, Step
from clctl.nn.spread import spread
from clctl.rng import seed_of


class NotFinite(Problem):
    """Something that training computes was not finite at or before `step` (of the log)."""

    def __init__(self, step: int, what: str = "the loss") -> None:
        super().__init__(
            f"{what} is not finite at or before step {step}",
            Exit.NUMERICS,
            "train.not-finite",
            "lower optimizer.lr or lengthen schedule.warmup; "
            "the last checkpoint is from before it happened",
        )
        self.step = step


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
        skip: Clock steps that are counted and not taken: no forward, no update.
        compiled: Method -> what is called in its place; None calls it as it is.
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
    skip: frozenset[int] = frozenset()
    compiled: Callable[[nn.Module], Callable[[Batch, Clock], Step]] | None = None


@dataclass(frozen=True)
class Tick:
    """One step behind us. Nothing in it has left the device yet.

    Attributes:
        step: Steps done, this one included.
        out: What the method gave; None where the step was skipped.
        finite: bool [], whether the losses of all steps since the start were finite.
        waited: Seconds that this step waited for its raw batch.
    """

    step: int
    lr: float
    out: Step | None
    finite: Tensor
    waited: float

    def whole(self) -> "Tick":
        """This step of all ranks together; itself in a single process."""
        if world()[1] == 1:
            return self
        spoilt = largest((~self.finite).float())
        return replace(self, out=self.out and whole(self.out), finite=spoilt == 0)

    def fetch(self) -> dict[str, float]:
        """Loss, metrics and spread of the projections of this step, in one transfer.

        Raises:
            NotFinite: If the loss of this or an earlier step since the start was not finite.
        """
        readings: dict[str, Tensor] = {}
        if self.out is not None:
            readings = {"loss": self.out.loss.detach(), **self.out.metrics}
            if "projections" in self.out.watch:
                readings["spread"] = spread(self.out.watch["projections"])
        values = [*readings.values(), self.finite]
        *numbers, finite = torch.stack([v.float() for v in values]).tolist()
        if not finite:
            raise NotFinite(self.step)
        return {"step": self.step, "lr": self.lr, **dict(zip(readings, numbers, strict=True))}


def finite(tick: Tick, tensors: Iterable[Tensor]) -> bool:
    """Whether all losses up to `tick` and all floating values of `tensors` are; one transfer."""
    tick = tick.whole()
    flags = [torch.isfinite(t).all() for t in tensors if t.is_floating_point()]
    device = tick.finite.device  # some optimizers count their steps on the CPU
    return bool(torch.stack([tick.finite, *(flag.to(device) for flag in flags)]).all())


def whole(step: Step) -> Step:
    """A step of all ranks together: means, and what is watched in the order of the batch."""
    return replace(
        step,
        loss=mean(step.loss.detach()),
        metrics={name: mean(value) for name, value in step.metrics.items()},
        watch={name: gather(value) for name, value in step.watch.items()},
    )


def _averaged(method: Method) -> nn.Module:
    """The method with gradients averaged over ranks; its buffers are equal on all of them already,
    for statistics, queues and centers are made from all rows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its new name is too new for torch 2.11
        return DistributedDataParallel(method, broadcast_buffers=False)


def train(plan: Plan, method: Method, optimizer: Optimizer, start: int = 0) -> Iterator[Tick]:
    """Run the steps from `start` to the last, one Tick each.

    The caller logs, saves and stops between ticks. With the state of step `start` restored,
    the ticks equal those of a run that was never stopped, bit for bit on one kind of machine.
    Nothing here waits for the device: whether the losses were finite is read with them, by
    `Tick.fetch`, and whether the weights are by who saves them, with `finite`.
    """
    rank, _ = world()
    method.train()
    module = _averaged(method) if live() else method
    forward = module if plan.compiled is None else plan.compiled(module)
    so_far = torch.ones((), dtype=torch.bool, device=plan.device)
    batches = plan.batches(start)
    for step in range(start, plan.total):
        clock = Clock(step, plan.total, plan.per_epoch, plan.device, plan.seed)
        before = time.perf_counter()
        raw = next(batches)
        waited = time.perf_counter() - before
        if step in plan.skip:
            yield Tick(step + 1, plan.lr(clock), None, so_far, waited)
            continue
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
            out = forward(batch, clock)
        out.loss.backward()
        method.before_step(clock)
        if plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.parameters(), plan.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(out, clock)
            so_far = so_far & torch.isfinite(out.loss.detach())
        yield Tick(step + 1, lr, out, so_far, waited)
