"""Prototypes: K directions, to each of which a vector has a cosine, and how many they are."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """Cosine of every row with every prototype, [B, width] -> [B, count] in [-1, 1], in float32.

    Only the direction of a prototype counts: a linear layer under weight norm whose scale is 1,
    as in DINO, and on the unit sphere, as in SwAV.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width), dim=1))

    def forward(self, z: Tensor) -> Tensor:
        # Cosines are divided by small temperatures, for which bf16 is too coarse.
        with torch.autocast(z.device.type, enabled=False):
            weight = self.weight
            z = z.to(weight.dtype)
            return F.linear(F.normalize(z, dim=1), F.normalize(weight, dim=1))

    @torch.no_grad()
    def renormalise(self) -> None:
        """Put the prototypes back onto the sphere, so that their rate of turning stays the same."""
        self.weight.copy_(F.normalize(self.weight, dim=1))


def number(asked: int | Literal["auto"], published: int, images: int | None) -> int:
    """How many prototypes.

    Args:
        asked: Of the recipe; "auto" is `published`, or a quarter of the training set where that is
            less, so that a prototype can stand for four images; two at least.
        images: Size of the training set, None if not known.
    """
    if asked != "auto":
        return asked
    return published if images is None else min(published, max(images // 4, 2))


def told(count: int, images: int | None) -> str:
    """The number for the log, with a warning where most prototypes can have no image."""
    crowd = images is not None and count > images
    return f"{count:,}" + (f", more than the {images:,} images: auto would suit" if crowd else "")
