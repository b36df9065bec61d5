"""Labelled pictures in random crops: the batches of fine-tuning and of the SGD probe."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clctl.commands._pictures import Pictures
from clctl.commands._scoring import Bench
from clctl.console import Exit, Problem
from clctl.images import Split
from clctl.recipe.policy import Crop, Views
from clctl.rng import generator
from clctl.views.apply import make


def policy(views: Views) -> Views:
    """One view of each image: crops, shifts and flips of the recipe's first view, no colours.

    What the recipe does not flip (digits, say) is not flipped here either. A recipe without
    crops gets none.
    """
    first = views.groups[0]
    crop = first.crop and Crop(scale=first.crop.scale, ratio=first.crop.ratio)
    group = type(first)(crop=crop, affine=first.affine, hflip=first.hflip, vflip=first.vflip)
    return views.model_copy(update={"groups": (group,)})


@dataclass(frozen=True)
class Labelled:
    """Batches of views with their labels: a pure function of the step.

    Attributes:
        per_epoch: Batches of an epoch, at least 1; what does not fill one waits its turn.
    """

    split: Split
    views: Views
    batch: int
    seed: int
    device: torch.device

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self.split) // self.batch)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Views float [B, 3, s, s] and labels int64 [B] of a step, on the device."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.split), generator=generator(self.seed, "labels", epoch))
        few = self.split.take(order[place * self.batch : (place + 1) * self.batch])
        key = generator(self.seed, "labelled views", step)
        x = make(few.images, self.views, key, self.device).views[0]
        assert few.labels is not None
        return x, few.labels.to(self.device)


def labelled_train(pictures: Pictures | None, bench: Bench) -> Callable[[int, int], Labelled]:
    """(batch, seed) -> the batches of what is left of train.

    Raises:
        Problem: If there are no pictures, or no training part.
    """
    if pictures is None:
        raise Problem(
            "this protocol trains on pictures, and a file of features has none",
            Exit.USAGE,
            "usage.features",
            "name a checkpoint, or use clctl linear-probe --protocol cached",
        )
    train = pictures.parts.train
    if train is None or bench.train is None:
        raise Problem(
            f"this protocol needs a training part beside the test part ({bench.protocol})",
            Exit.DATA,
            "data.no-train",
            "give data with train/ and test/, or use clctl linear-probe --protocol cached",
        )
    left = train if bench.rows is None else train.take(bench.rows)
    views, device = policy(pictures.recipe.views), pictures.where.device
    return lambda batch, seed: Labelled(left, views, min(batch, len(left)), seed, device)
