"""What training says on its way: a live screen on a terminal, dated lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clctl.commands import _memory
from clctl.commands._live import Now, Trail, screen
from clctl.commands._stop import Stop
from clctl.report.document import duration, percent

if TYPE_CHECKING:
    from clctl.commands._training import Trainer

MEASURED = 5  # steps after which time and memory are told; the first ones warm caches up


@contextmanager
def progress(trainer: "Trainer", stop: Stop) -> Iterator[Callable[[], None]]:
    """Tell how training goes inside the block; gives what is to be called after every step."""
    talk, begun = trainer.talk, trainer.done
    warm = trainer.steps_seconds

    def measured() -> None:
        nonlocal warm
        if trainer.done == begun + 1:
            warm = trainer.steps_seconds
        if trainer.done - begun == MEASURED:
            step = (trainer.steps_seconds - warm) / (MEASURED - 1)
            left = (trainer.total - trainer.done) * step
            talk.say(f"  measured  {forecast(left, trainer.where.device)}")

    if not talk.live:
        with talk.task(f"{trainer.recipe.name} step", trainer.total, begun) as tick:

            def line() -> None:
                measured()
                tick(trainer.done, words(trainer.last, trainer.images_per_second))

            yield line
        return
    look = _Look(trainer, stop)
    with screen(look()) as show:

        def draw() -> None:
            measured()
            show(look())

        yield draw


class _Look:
    """Reads off a trainer what the live screen shows; nothing that a device has to be waited for."""

    def __init__(self, trainer: "Trainer", stop: Stop) -> None:
        self.trainer, self.stop = trainer, stop
        self.seen: dict[str, Any] = {}
        self.loss, self.knn = Trail(), Trail()
        self.curves: tuple[list[float], list[float]] = [], []
        if "knn" in trainer.guard.first:
            self.knn.add(trainer.guard.first["knn"])
        for record in trainer.run.records():
            self._take(record)
        own = trainer.about.get("init_from") is None
        self.begin = "random-init" if own else "at the start"

    def __call__(self) -> Now:
        trainer = self.trainer
        if trainer.last and trainer.last["step"] != self.seen.get("step"):
            old = () if trainer.score_due(int(trainer.last["step"])) else ("knn",)
            self._take({k: v for k, v in trainer.last.items() if k not in old})
        taken = trainer.steps_taken
        step = trainer.steps_seconds / taken if taken else None
        rest = trainer.total - trainer.done
        return Now(
            name=trainer.recipe.name,
            step=trainer.done,
            total=trainer.total,
            left=step * rest if step is not None and rest else None,
            saves=self._saves(step),
            rate=trainer.images_per_second,
            last=self.seen,
            first=trainer.guard.first,
            begin=self.begin,
            loss=self.curves[0],
            knn=self.curves[1],
        )

    def _take(self, record: dict[str, Any]) -> None:
        """Take in a record, as it stands in the log."""
        self.seen = {k: v for k, v in self.seen.items() if k == "knn"} | record
        self.loss.add(record["loss"])
        if "knn" in record:
            self.knn.add(record["knn"])
        self.curves = [*self.loss.points], [*self.knn.points]

    def _saves(self, step: float | None) -> float | None:
        """Seconds to the next checkpoint, None where it is the one at the end, or not known."""
        trainer, every = self.trainer, self.trainer.recipe.checkpoint
        due = max(0.0, 60 * every.every_minutes - self.stop.unsaved)
        if step is None:
            return due
        if every.every_steps is not None:
            due = min(due, step * (every.every_steps - trainer.done % every.every_steps))
        return due if due < step * (trainer.total - trainer.done) else None


def words(last: dict[str, float], images_per_second: float) -> str:
    """The figures that matter, for the progress line.

    Args:
        last: The newest record of the log, empty before the first.
    """
    if not last:
        return ""
    found = [f"loss {last['loss']:.3f}"]
    if "loss_chance" in last:
        found[0] += f" (chance {last['loss_chance']:.2f})"
    found.append(f"spread {last['spread']:.2f}")
    if "knn" in last:
        found.append(f"kNN {percent(last['knn'])} within train")
    found.append(f"{images_per_second:.0f} images/s")
    found.append(f"waiting {percent(last['waiting'])}")
    return " · ".join(found)


def forecast(seconds: float, device: torch.device) -> str:
    """What is to come after the first steps."""
    return f"{duration(seconds)} to go, {_memory.peak(device)} of memory"
