"""Prototypes: K directions, to each of which a vector has a cosine."""

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
