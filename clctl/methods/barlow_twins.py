"""Barlow Twins: make the cross-correlation of the two views' projections the identity.

Source: Zbontar et al. 2021, "Barlow Twins", arXiv:2103.03230, Eq. 1-2, Alg. 1.
Year: 2021
Negatives: none
Labels: no
Views: 2
State: none
Against collapse: decorrelated dimensions of unit variance
"""

from typing import Literal, final

from clctl.losses import barlow_twins
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.recipe.section import Positive, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; redundancy: weight λ of the off-diagonal.

    scale: factor on the whole loss, which matters to SGD and AdamW.
    """

    name: Literal["barlow_twins"] = "barlow_twins"
    projector: Widths = (8192, 8192, 8192)
    redundancy: Positive = 0.0051
    scale: Positive = 1.0

    def build(self, encoder: Encoder, scale: Scale) -> "BarlowTwins":
        """The method around an encoder with a freshly drawn projector."""
        return BarlowTwins(self, encoder)


@final
class BarlowTwins(Method):
    """Encoder and projector."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.redundancy, self.scale = config.redundancy, config.scale
        self.width = config.projector[-1]
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        loss = self.scale * barlow_twins(a, b, self.redundancy)
        return Step(loss, watched(features, a))

    def chance(self, batch: int) -> float:
        return self.scale * self.width
