"""VICReg: near views, spread dimensions, no correlation between them.

Source: Bardes et al. 2022, "VICReg", arXiv:2105.04906, Eq. 1-6, Alg. 1.
Year: 2021
Negatives: none
Labels: no
Views: 2
State: none
Against collapse: hinge on the variance of every dimension
"""

from typing import Annotated, Literal, final

from pydantic import Field

from clctl.losses import vicreg
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.recipe.section import Widths
from clctl.recipe.sections import Objective

Weight = Annotated[float, Field(ge=0)]


class Config(Objective):
    """projector: widths of its layers, output last; the others weigh the three terms.

    variance 0 has no hinge, to see the collapse that it prevents.
    """

    name: Literal["vicreg"] = "vicreg"
    projector: Widths = (8192, 8192, 8192)
    invariance: Weight = 25.0
    variance: Weight = 25.0
    covariance: Weight = 1.0

    def build(self, encoder: Encoder, scale: Scale) -> "VICReg":
        """The method around an encoder with a freshly drawn projector."""
        return VICReg(self, encoder)


@final
class VICReg(Method):
    """Encoder and projector."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.weights = (config.invariance, config.variance, config.covariance)
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        # The one loss that knows of scale, and can be lowered by shrinking: the hinge wants 1.
        std = a.detach().float().std(dim=0).mean()
        return Step(vicreg(a, b, *self.weights), watched(features, a), {"std": std})
