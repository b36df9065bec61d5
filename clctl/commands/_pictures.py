"""An encoder before the pictures that it is scored on: features of all, as a Bench."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from clctl.commands import _setup
from clctl.commands._scoring import Bench, Material, Part, collapse
from clctl.console import Exit, Problem, Talk
from clctl.data.open import Trial
from clctl.encoders._vit import ViT
from clctl.evaluate.features import calibrate, chunks, extract, pixels
from clctl.evaluate.overlap import Overlap, of_images, overlap
from clctl.images import DataSet, Split
from clctl.method import Encoder
from clctl.recipe.sections import Recipe
from clctl.views.apply import prepare

PIXELS = 32  # largest side of the pictures whose raw pixels are the baseline
CALIBRATION = 1024  # images that set the statistics of the untrained encoder


@dataclass(frozen=True)
class Pictures:
    """An encoder, and the pictures that it is scored on.

    Attributes:
        initial: Gives the encoder that training started from, where it was not random.
        layers: Of a ViT, the last blocks whose class tokens are the features, with the mean of
            the patches; None for the encoder's own output.
    """

    recipe: Recipe
    encoder: Encoder
    dataset: DataSet
    parts: Trial
    where: _setup.Machine
    talk: Talk
    initial: Callable[[], Encoder] | None = None
    layers: int | None = None

    def encoders(self) -> dict[str, Callable[[], Encoder]]:
        """Each encoder by its name, on the device, as a score should see it."""
        found = {"trained": lambda: self.encoder, "random_init": self._untrained}
        if self.initial is not None:
            found["initial"] = self.initial
        return {name: cache(partial(self._placed, make)) for name, make in found.items()}

    def materials(self) -> dict[str, Callable[[], Material]]:
        """Features by each encoder, and the raw pixels, computed when first asked for."""
        labels = {"trained": "features of", "random_init": "random-init features of"}
        found = {
            name: cache(partial(self._encoded, make, labels.get(name, f"{name} features of")))
            for name, make in self.encoders().items()
        }
        return {**found, "pixels": cache(self._raw)}

    def collapse(self) -> dict[str, float]:
        """How far the features of the test part are from collapse; needs no labels."""
        return collapse(self.materials())

    def bench(self) -> Bench:
        """The bench of these pictures.

        Raises:
            Problem: If they have no labels.
        """
        parts, dataset = self.parts, self.dataset
        return Bench(
            data=dataset.name,
            classes=dataset.classes or (),
            train=self._part(parts.train),
            choose=self._part(parts.choose),
            test=self._required(parts.test),
            protocol=parts.protocol,
            facts={
                "fingerprint": dataset.fingerprint,
                "labels_from": dataset.labels_from,
                "pixels_size": min(PIXELS, self.recipe.views.size),
            },
            materials=self.materials(),
            overlap=cache(self._overlap),
            device=self.where.device,
            talk=self.talk,
        )

    def _part(self, split: Split | None) -> Part | None:
        return None if split is None else self._required(split)

    def _required(self, split: Split) -> Part:
        if split.labels is None or self.dataset.classes is None:
            raise Problem(
                f"{self.dataset.name} has no labels ({self.dataset.labels_from})",
                Exit.DATA,
                "data.no-labels",
                "give labelled pictures: --data FOLDER with one folder per class",
            )
        return Part(split.name, split.labels, split.ids)

    def _through(self, compute: Callable[[Split], Tensor]) -> Material:
        parts = (self.parts.train, self.parts.choose, self.parts.test)
        train, choose, test = (None if p is None else compute(p) for p in parts)
        assert test is not None
        return Material(train, choose, test)

    def _placed(self, make: Callable[[], Encoder]) -> Encoder:
        form = {"memory_format": torch.channels_last}
        return make().to(self.where.device).to(**form)  # type: ignore[call-overload]

    def _encoded(self, make: Callable[[], Encoder], label: str) -> Material:
        encoder = seen(make(), self.layers)

        def compute(split: Split) -> Tensor:
            with self.talk.task(f"{label} {split.name}", len(split)) as tick:
                found = extract(
                    encoder,
                    split.images,
                    _setup.preparation(self.recipe.views),
                    self.where.device,
                    tick=lambda done: tick(done, "images"),
                )
            finite(found, f"{label} {split.name}")
            return found

        return self._through(compute)

    def _untrained(self) -> Encoder:
        """The same encoder with the weights of step 0, batch-norm statistics calibrated."""
        encoder = _setup.encoder(self.recipe).to(self.where.device)
        calibrate(encoder, self._calibration())
        return encoder

    def _calibration(self) -> Iterable[Tensor]:
        source = self.parts.train or self.parts.test
        few = source.images.take(torch.arange(min(len(source), CALIBRATION)))
        ready = _setup.preparation(self.recipe.views)
        return (ready(chunk.to(self.where.device)) for chunk in chunks(few, 256))

    def _raw(self) -> Material:
        """The pictures themselves, at most PIXELS wide."""
        size = min(PIXELS, self.recipe.views.size)
        flat = partial(prepare, size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return self._through(lambda split: pixels(split.images, flat))

    def _overlap(self) -> Overlap:
        train, test = self.parts.train, self.parts.test
        known = None if train is None else of_images(train.images)
        ids = () if train is None else train.ids
        return overlap(known, of_images(test.images), ids, test.ids)


def finite(features: Tensor, what: str) -> None:
    """Refuse features that no score can be made of.

    Raises:
        Problem: If any is not finite.
    """
    wrong = int((~torch.isfinite(features).all(dim=1)).sum())
    if wrong:
        raise Problem(
            f"{what}: {wrong} of {len(features)} images have features that are not finite",
            Exit.NUMERICS,
            "features.not-finite",
            "the weights are broken: score an earlier checkpoint of the run",
        )


class Layers(nn.Module):
    """The class tokens of the last blocks of a ViT and the mean of its patches, as one vector."""

    def __init__(self, encoder: ViT, count: int) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.layers(x, self.count)


def seen(encoder: Encoder, layers: int | None) -> nn.Module:
    """The encoder, or what --layers makes of it.

    Raises:
        Problem: If the encoder has no such blocks.
    """
    if layers is None:
        return encoder
    if not isinstance(encoder, ViT) or not 1 <= layers <= len(encoder.blocks):
        has = (
            f"this encoder has {len(encoder.blocks)}"
            if isinstance(encoder, ViT)
            else ("only vit_tiny, vit_small and vit_base have any")
        )
        raise Problem(
            f"--layers {layers} is not a number of blocks with class tokens: {has}",
            Exit.USAGE,
            "usage.layers",
            "leave --layers out",
        )
    return Layers(encoder, layers)
