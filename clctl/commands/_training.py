"""The loop of a run: steps, lines of the log, checkpoints, the online score, and when to stop."""

import copy
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clctl import optim
from clctl.commands import _setup
from clctl.commands._guard import Guard, readings
from clctl.commands._stop import Stop
from clctl.console import Talk, dump
from clctl.data.feed import Feed
from clctl.engine import Plan, Tick, train
from clctl.evaluate.features import extract
from clctl.evaluate.knn import knn
from clctl.evaluate.score import score
from clctl.images import Images, Split
from clctl.method import Batch, Clock, Method
from clctl.nn.spread import spread
from clctl.recipe.sections import Recipe
from clctl.report.document import duration, percent
from clctl.rng import generator, seeded
from clctl.store import checkpoint, reference
from clctl.store.run import Run
from clctl.views.apply import make

MEASURED = 5  # steps after which time and memory are told; the first ones warm caches up
BANK, QUERIES = 4000, 1000  # images of train in the online score


@dataclass
class Trainer:
    """One run, all its parts built.

    Attributes:
        about: Goes into the model file: what it is and how to use it. No time, no machine, so
            that two identical runs write identical bytes.
        manifest: Goes beside it: where and with what it was made.
        start: Steps that a checkpoint had done.
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
    classes: int = 0
    start: int = 0
    last: dict[str, float] = field(default_factory=dict)
    steps_seconds: float = 0.0
    done: int = 0
    guard: Guard = field(init=False)

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
        )

    def _views(self, raw: tuple[Images, Tensor | None], step: int) -> Batch:
        images, labels = raw
        key = generator(self.recipe.seed, "views", step)
        made = make(images, self.recipe.views, key, self.where.device)
        return Batch(made.views, labels)

    def arm(self) -> None:
        """Set up the guard with the readings of step 0; for a method that has its first weights."""
        plan, method = self.plan, copy.deepcopy(self.method)  # statistics of batch norm move
        batch = plan.views(next(self.feed.batches(0)), 0)
        clock = Clock(0, plan.total, plan.per_epoch, plan.device, plan.seed)
        amp = torch.autocast(plan.device.type, plan.amp, enabled=plan.amp is not None)
        with torch.no_grad(), seeded(plan.seed, "model", 0, 0), amp:
            step = method(batch, clock)
            own = {name: float(value) for name, value in step.metrics.items()}
            first = readings(step) | own | {"spread": float(spread(step.watch["projections"]))}
        armed = round(self.recipe.schedule.warmup * self.total)
        self.guard = Guard(self.recipe.guard, first, armed, self.total // 2, self.talk)

    def recall(self, records: list[dict[str, Any]]) -> None:
        """Take in the log of a run that continues."""
        self.last = next(iter(records[::-1]), {})
        self.guard.recall(records, checkpoint.steps(self.run.folder))

    def go(self, stop: Stop) -> str | None:
        """Train from `start` to the end, or until `stop` has a reason; returns that reason.

        Raises:
            Problem: Exit.NUMERICS if the loss is not finite or the features have collapsed.
        """
        recipe, label = self.recipe, f"{self.recipe.name} step"
        saved_at, waits = time.monotonic(), deque[float](maxlen=recipe.report.log_every)
        warm = 0.0
        with self.talk.task(label, self.total, self.start) as show:
            clock = time.perf_counter()
            for tick in train(self.plan, self.method, self.optimizer, self.start):
                now = time.perf_counter()
                took, clock = now - clock, now
                self.steps_seconds += took
                self.done = tick.step
                waits.append(tick.waited / max(took, 1e-9))
                last, reason = tick.step == self.total, stop.reason
                if tick.step == self.start + 1:
                    warm = self.steps_seconds
                if tick.step - self.start == MEASURED:
                    self._forecast((self.steps_seconds - warm) / (MEASURED - 1))
                if last or reason or tick.step % recipe.report.log_every == 0:
                    self._log(tick, sum(waits) / len(waits))
                if last or reason or self._due(tick.step, saved_at):
                    tick.fetch()  # refuses to save what is not finite
                    self.save(tick.step)
                    saved_at = time.monotonic()
                if last or reason:
                    show(tick.step, self._words())
                    return None if last else reason
                show(tick.step, self._words())
                clock = time.perf_counter()
        return None

    def _due(self, step: int, saved_at: float) -> bool:
        every = self.recipe.checkpoint
        by_step = every.every_steps is not None and step % every.every_steps == 0
        return by_step or time.monotonic() - saved_at >= 60 * every.every_minutes

    def _log(self, tick: Tick, waiting: float) -> None:
        """Write one line of metrics.jsonl, and let the guard judge it."""
        record = tick.fetch() | readings(tick.out)
        record["epoch"] = tick.step / self.feed.per_epoch
        chance = self.method.chance(self.recipe.train.batch_size)
        if chance is not None:
            record["loss_chance"] = chance
        if self.method.ideal is not None:
            record["loss_ideal"] = self.method.ideal
        if self.classes >= 2 and self._score_due(tick.step):
            record["knn"] = self.online()
        elif "knn" in self.last:
            self.last = {"knn": self.last["knn"]}
        record["images_per_second"] = self.images_per_second
        record["waiting"] = waiting
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        self.run.log({**record, "time": stamp})
        self.last = {**self.last, **record}
        self.guard.judge(record)

    def _score_due(self, step: int) -> bool:
        """At the first line of the log in every `knn_every` epochs, and at the end."""
        every = self.recipe.report.knn_every * self.feed.per_epoch
        before = step - self.recipe.report.log_every
        return step == self.total or before // every < step // every

    @cached_property
    def _held(self) -> tuple[Split, Split]:
        """Queries and bank, both out of train: the test part is not touched before the end."""
        order = torch.randperm(len(self.split), generator=generator(0, "online"))
        queries = min(QUERIES, max(1, len(order) // 5))
        bank = order[queries : queries + BANK]
        return self.split.take(bank.sort().values), self.split.take(order[:queries].sort().values)

    def online(self) -> float:
        """kNN top-1 of one part of train against another.

        Both are trained on, without labels: a sign of learning, not a score.
        """
        encoder = self.method.get_submodule(self.method.evaluated)
        ready = _setup.preparation(self.recipe.views)
        bank, queries = self._held
        assert bank.labels is not None
        assert queries.labels is not None
        a, b = (extract(encoder, part.images, ready, self.where.device) for part in (bank, queries))
        votes = knn(a, bank.labels, b, classes=self.classes)
        return score(votes, queries.labels).metrics["top1"]

    def save(self, step: int) -> None:
        """Write a checkpoint; older ones beyond `checkpoint.keep` go, but for the last good one."""
        checkpoint.save(
            self.run.folder,
            step,
            self.method.state_dict(),
            optim.tensors(self.optimizer, self.method),
            {reference.KEY: dump({**self.about, "step": step}, indent=None)},
            {**self.manifest, "epoch": step / self.feed.per_epoch},
        )
        checkpoint.prune(self.run.folder, self.recipe.checkpoint.keep, self.guard.good_save(step))

    @property
    def images_per_second(self) -> float:
        """Images seen per second of training since this start."""
        images = (self.done - self.start) * self.recipe.train.batch_size
        return images / self.steps_seconds if self.steps_seconds else 0.0

    def _words(self) -> str:
        """The figures that matter, for the progress line."""
        if not self.last:
            return ""
        words = [f"loss {self.last['loss']:.3f}"]
        if "loss_chance" in self.last:
            words[0] += f" (chance {self.last['loss_chance']:.2f})"
        words.append(f"spread {self.last['spread']:.2f}")
        if "knn" in self.last:
            words.append(f"kNN {percent(self.last['knn'])} within train")
        words.append(f"{self.images_per_second:.0f} images/s")
        words.append(f"waiting {percent(self.last['waiting'])}")
        return " · ".join(words)

    def _forecast(self, step: float) -> None:
        left = (self.total - self.done) * step
        memory = _memory(self.where.device)
        self.talk.say(f"  measured  {duration(left)} to go, {memory} of memory")


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU"
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"
