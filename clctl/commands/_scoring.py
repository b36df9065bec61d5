"""One way to score for every command: features once, then the same for the baselines."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from clctl.commands import _setup
from clctl.console import Exit, Problem, Talk
from clctl.data.open import Trial
from clctl.evaluate import diagnostics
from clctl.evaluate.features import calibrate, chunks, extract, pixels
from clctl.evaluate.score import Score, chance, score
from clctl.images import DataSet, Split
from clctl.recipe.sections import Recipe
from clctl.views.apply import prepare

PIXELS = 32  # largest side of the pictures whose raw pixels are the baseline
CALIBRATION = 1024  # images that set the statistics of the untrained encoder


@dataclass(frozen=True)
class Material:
    """Features of every part of a data set that an evaluation uses.

    Attributes:
        train: float32 [N, D], or None where the test part is all there is (leave-one-out).
        choose: Features of the part that chooses hyper-parameters, or None.
        test: float32 [M, D].
    """

    train: Tensor | None
    choose: Tensor | None
    test: Tensor


@dataclass(frozen=True)
class Bench:
    """Everything that scoring needs, with features computed when first asked for."""

    recipe: Recipe
    encoder: nn.Module
    dataset: DataSet
    parts: Trial
    where: _setup.Machine
    talk: Talk

    def _through(self, compute: Callable[[Split], Tensor]) -> Material:
        parts = (self.parts.train, self.parts.choose, self.parts.test)
        train, choose, test = (None if p is None else compute(p) for p in parts)
        assert test is not None
        return Material(train, choose, test)

    def _encoded(self, encoder: nn.Module, label: str) -> Material:
        form = {"memory_format": torch.channels_last}
        encoder = encoder.to(self.where.device).to(**form)  # type: ignore[call-overload]

        def compute(split: Split) -> Tensor:
            with self.talk.task(f"{label} {split.name}", len(split)) as tick:
                return extract(
                    encoder,
                    split.images,
                    _setup.preparation(self.recipe.views),
                    self.where.device,
                    tick=lambda done: tick(done, "images"),
                )

        return self._through(compute)

    @cached_property
    def trained(self) -> Material:
        """Features of the checkpoint."""
        return self._encoded(self.encoder, "features of")

    @cached_property
    def untrained(self) -> Material:
        """Features of the same encoder with the weights of step 0, statistics calibrated."""
        encoder = _setup.encoder(self.recipe).to(self.where.device)
        calibrate(encoder, self._calibration())
        return self._encoded(encoder, "random-init features of")

    def _calibration(self) -> Iterable[Tensor]:
        source = self.parts.train or self.parts.test
        few = source.images.take(torch.arange(min(len(source), CALIBRATION)))
        ready = _setup.preparation(self.recipe.views)
        return (ready(chunk.to(self.where.device)) for chunk in chunks(few, 256))

    @property
    def pixels_size(self) -> int:
        """Side of the pictures whose raw pixels are compared."""
        return min(PIXELS, self.recipe.views.size)

    @cached_property
    def raw(self) -> Material:
        """The pictures themselves, at most PIXELS wide."""
        flat = partial(prepare, size=self.pixels_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return self._through(lambda split: pixels(split.images, flat))

    @cached_property
    def collapse(self) -> dict[str, float]:
        """Spread and effective rank of the features of the test part, beside random-init's."""
        rivals = {"": self.trained.test, "_random_init": self.untrained.test}
        spread = {f"feature_spread{n}": diagnostics.feature_spread(z) for n, z in rivals.items()}
        return spread | {f"rank_me{n}": diagnostics.rank_me(z) for n, z in rivals.items()}

    def label(self, split: Split | None) -> Tensor:
        """The labels of a part.

        Raises:
            Problem: If the data has none.
        """
        if split is None or split.labels is None or self.dataset.classes is None:
            raise Problem(
                f"{self.dataset.name} has no labels ({self.dataset.labels_from})",
                Exit.DATA,
                "data.no-labels",
                "give labelled pictures: --data FOLDER with one folder per class",
            )
        return split.labels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.classes or ())


Judge = Callable[[Bench, Material], tuple[Tensor, dict[str, Any]]]
"""Material -> votes [M, classes] for the test part, and what was settled on the way."""


def evaluate(bench: Bench, judge: Judge) -> tuple[Score, dict[str, Any]]:
    """Score the checkpoint and its baselines alike.

    Returns:
        The score, and the common part of the report: metrics, interval, baselines, sizes.
    """
    labels = bench.label(bench.parts.test)
    if bench.classes < 2:
        raise Problem(
            f"{bench.dataset.name} has one class, {bench.dataset.classes}: nothing to tell apart",
            Exit.DATA,
            "data.one-class",
            "give pictures of at least two classes",
        )
    begun = time.perf_counter()
    votes, settled = judge(bench, bench.trained)
    result = score(votes, labels)
    rivals = {"random_init": bench.untrained, "pixels": bench.raw}
    floor = {name: score(judge(bench, m)[0], labels).metrics["top1"] for name, m in rivals.items()}
    return result, {
        "metrics": result.metrics,
        "top1_ci95": list(result.interval),
        "baselines": {**chance(labels, bench.classes), **floor},
        "data": {
            "name": bench.dataset.name,
            "fingerprint": bench.dataset.fingerprint,
            "labels_from": bench.dataset.labels_from,
            "classes": list(bench.dataset.classes or ()),
            "test": bench.parts.test.name,
            "test_images": len(labels),
            "train_images": 0 if bench.parts.train is None else len(bench.parts.train),
        },
        "collapse": bench.collapse,
        "protocol": {"parts": bench.parts.protocol, **settled, "pixels_size": bench.pixels_size},
        "seconds": time.perf_counter() - begun,
    }
