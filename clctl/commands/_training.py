"""The loop of a run: steps, lines of the log, checkpoints, the online score, and when to stop."""

import copy
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clctl import optim
from clctl.commands import _compiled, _setup, _trained
from clctl.commands._guard import Guard, readings
from clctl.commands._online import online
from clctl.commands._progress import progress
from clctl.commands._refresh import Watched
from clctl.commands._stop import Stop
from clctl.commands.views import draw
from clctl.console import Talk, dump
from clctl.data.feed import Feed
from clctl.distributed import Agreement, wait, world
from clctl.engine import NotFinite, Plan, Tick, finite, train, whole
from clctl.images import Images, Split
from clctl.method import Batch, Clock, Method
from clctl.nn.spread import spread
from clctl.recipe.sections import Recipe
from clctl.report.sinks._sink import Sinks
from clctl.rng import generator, seeded
from clctl.store import checkpoint, reference
from clctl.store.run import Run
from clctl.views.apply import make


@dataclass
class Trainer:
    """One run, all its parts built.

    Attributes:
        about: Goes into the model file: what it is and how to use it. No time, no machine, so
            that two identical runs write identical bytes.
        manifest: Goes beside it: where and with what it was made.
        start: Steps that a checkpoint had done when the command began.
        done: Steps that the weights have behind them.
        skipped: Steps of the log that are left out, for something in them was not finite.
        last: The newest record of the log.
        guard: What watches for collapse.
    """

    recipe: Recipe
    method: Method
    optimizer: Optimizer
    split: Split
    feed: Feed
    where: _setup.Machine
    run: Run
    about: dict[str, Any]
    manifest: dict[str, Any]
    talk: Talk
    classes: tuple[str, ...] = ()
    start: int = 0
    last: dict[str, float] = field(default_factory=dict)
    steps_seconds: float = 0.0
    steps_taken: int = 0
    done: int = 0
    skipped: list[int] = field(default_factory=list)
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.sinks = Sinks(self.recipe, self.talk.say)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.recipe.train.epochs * self.feed.per_epoch

    @property
    def plan(self) -> Plan:
        """What the engine needs."""
        recipe = self.recipe
        peak = optim.peak(recipe.optimizer, recipe.train.batch_size)
        return Plan(
            seed=recipe.seed,
            total=self.total,
            per_epoch=self.feed.per_epoch,
            device=self.where.device,
            batches=self.feed.batches,
            views=self._views,
            lr=lambda clock: peak * optim.factor(recipe.schedule, clock),
            peak=peak,
            decay=optim.decay(recipe.optimizer, recipe.schedule),
            clip_norm=getattr(recipe.optimizer, "clip_norm", None),
            amp=self.where.amp,
            skip=frozenset(step - 1 for step in self.skipped),  # the engine counts from 0
            compiled=_compiled.on(self.where.device) if recipe.train.compile else None,
        )

    def _views(self, raw: tuple[Images, Tensor | None], step: int) -> Batch:
        images, labels = raw
        key = generator(self.recipe.seed, "views", step)
        part = self.feed.part, self.split.images.sizes[self.feed.rows(step)]
        return Batch(make(images, self.recipe.views, key, self.where.device, part).views, labels)

    def arm(self) -> None:
        """Set up the guard with the readings of step 0; for a method that has its first weights."""
        plan, method = self.plan, copy.deepcopy(self.method)  # statistics of batch norm move
        batch = plan.views(next(self.feed.batches(0)), 0)
        clock = Clock(0, plan.total, plan.per_epoch, plan.device, plan.seed)
        amp = torch.autocast(plan.device.type, plan.amp, enabled=plan.amp is not None)
        with torch.no_grad(), seeded(plan.seed, "model", 0, 0), amp:
            step = whole(method(batch, clock))
            own = {name: float(value) for name, value in step.metrics.items()}
            first = readings(step) | own | {"spread": float(spread(step.watch["projections"]))}
        if self.talk.live and world()[1] == 1 and len(self.classes) >= 2:  # all ranks must score
            first["knn"] = self._online.online(self.method.get_submodule(self.method.evaluated))
        armed = round(self.recipe.schedule.warmup * self.total)
        self.guard = Guard(self.recipe.guard, first, armed, self.total // 2, self.talk)

    def recall(self, records: list[dict[str, Any]]) -> None:
        """Take in the log of a run that continues, or that went back."""
        self.last = next(iter(records[::-1]), {})
        self.guard = self.guard.again()
        self.guard.recall(records, checkpoint.steps(self.run.folder))
        self.sinks.open(self.run.folder, self.recipe, self.done)

    def go(self, stop: Stop) -> str | None:
        """Train from `done` to the end, or until `stop` has a reason; returns that reason.

        Raises:
            NotFinite: Where a loss, or what would be saved, is not finite; nothing of it is saved.
            Problem: Exit.NUMERICS if the features have collapsed.
        """
        every = self.recipe.report.log_every
        waits = deque[float](maxlen=every)
        agree = Agreement()
        with progress(self, stop) as show:
            clock = time.perf_counter()
            for tick in train(self.plan, self.method, self.optimizer, self.done):
                now = time.perf_counter()
                took, clock = now - clock, now
                self.steps_seconds += took
                self.steps_taken += 1
                self.done = tick.step
                waits.append(tick.waited / max(took, 1e-9))
                last = tick.step == self.total
                late = stop.unsaved >= 60 * self.recipe.checkpoint.every_minutes
                code, overdue = agree(stop.code, int(late))
                reason = stop.heed(code)
                if reason and not last:
                    self.talk.say(f"  {reason}: saving step {tick.step:,}; {stop.risk}")
                due = last or reason or tick.step % every == 0
                if due and tick.out is not None:
                    self._log(tick, sum(waits) / len(waits))
                views = self.run.pictures / "views.png"
                if self.steps_taken == 1 and not views.exists():  # no step waits for a picture
                    draw(self.recipe, self.split, self.classes or None, self.where.device, views)
                if last or reason or overdue or self._due(tick.step):
                    self.check(tick)
                    self.save(tick.step)
                    stop.saved()
                show()
                if last or reason:
                    agree.close()
                    return None if last else reason
                clock = time.perf_counter()
        return None

    def _due(self, step: int) -> bool:
        settings = self.recipe.checkpoint
        return any(n and step % n == 0 for n in (settings.every_steps, settings.keep_every))

    def _log(self, tick: Tick, waiting: float) -> None:
        """Write one line of metrics.jsonl, and let the guard judge it."""
        tick = tick.whole()
        assert tick.out is not None
        record = tick.fetch() | readings(tick.out)
        record["epoch"] = tick.step / self.feed.per_epoch
        chance = self.method.chance(self.recipe.train.batch_size)
        if chance is not None:
            record["loss_chance"] = chance
        if self.method.ideal is not None:
            record["loss_ideal"] = self.method.ideal
        if len(self.classes) >= 2 and self.score_due(tick.step):
            self.check(tick)  # the update may have spoilt the weights after a finite loss
            record["knn"] = self._online(self.method.get_submodule(self.method.evaluated))
        elif "knn" in self.last:
            self.last = {"knn": self.last["knn"]}
        record["images_per_second"] = self.images_per_second
        record["waiting"] = waiting
        self.run.log({**record, "time": datetime.now(UTC).isoformat(timespec="seconds")})
        self.sinks.log(record)
        self.last = {**self.last, **record}
        self.guard.judge(record)

    def score_due(self, step: int) -> bool:
        """At the first line of the log in every `knn_every` epochs, and at the end."""
        every = self.recipe.report.knn_every * self.feed.per_epoch
        return step == self.total or (step - self.recipe.report.log_every) // every < step // every

    @cached_property
    def _online(self) -> Watched:
        asked = online(self.split, len(self.classes), self.recipe.views, self.where.device)
        return Watched(asked, self.run.pictures, self.classes)

    def tensors(self) -> Iterator[Tensor]:
        """All that a checkpoint keeps."""
        yield from self.method.state_dict().values()
        yield from optim.tensors(self.optimizer, self.method).values()

    def check(self, tick: Tick) -> None:
        """Raises NotFinite if a loss up to this tick, or what a checkpoint would keep, is not."""
        if not finite(tick, self.tensors()):
            raise NotFinite(tick.step, "the loss, a weight or the optimizer's state")

    def restore(self, folder: Path) -> dict[str, Any]:
        """Take the state of a checkpoint; gives its manifest.

        Raises:
            Problem: Exit.CHECKPOINT if it is damaged or of another method.
        """
        model, state, _, manifest = checkpoint.load(folder)
        _trained.restore(self.method, model, "the run's method")
        self.optimizer.state.clear()
        optim.restore(self.optimizer, self.method, state)
        self.done = manifest["step"]
        return manifest

    def save(self, step: int) -> None:
        """Write a checkpoint; older ones beyond `checkpoint.keep` go, but for the last good one."""
        spare = self.guard.good_save(step)
        if world()[0] == 0:
            state = optim.tensors(self.optimizer, self.method)
            text = dump({**self.about, "step": step}, indent=None)
            epoch = {"epoch": step / self.feed.per_epoch, "skipped_steps": self.skipped}
            model, about = self.method.state_dict(), self.manifest | epoch
            checkpoint.save(self.run.folder, step, model, state, {reference.KEY: text}, about)
            settings = self.recipe.checkpoint
            checkpoint.prune(self.run.folder, settings.keep, spare, settings.keep_every)
        wait()

    @property
    def images_per_second(self) -> float:
        """Images seen per second of training since this start."""
        images = self.steps_taken * self.recipe.train.batch_size
        return images / self.steps_seconds if self.steps_seconds else 0.0
