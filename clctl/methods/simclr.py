"""SimCLR: tell the two views of an image from those of all other images of the batch.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv:2002.05709, Sec. 2 and App. B.9.
Differs: batch norm behind the hidden layers of the projector, as in the authors' code, but none
behind its output.
"""

import math
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from clctl.losses import nt_xent
from clctl.method import Batch, Clock, Encoder, Method, Step
from clctl.nn.mlp import mlp
from clctl.nn.spread import spread
from clctl.recipe.sections import Count, Section


class Config(Section):
    """projector: widths of its layers, output last; temperature: of NT-Xent, above 0."""

    views: ClassVar[int] = 2
    name: Literal["simclr"] = "simclr"
    projector: Annotated[tuple[Count, ...], Field(min_length=1)] = (2048, 128)
    temperature: Annotated[float, Field(gt=0)] = 0.5

    def build(self, encoder: Encoder) -> "SimCLR":
        """The method around an encoder with freshly drawn heads."""
        return SimCLR(self, encoder)


@final
class SimCLR(Method):
    """Encoder and projector under NT-Xent."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        # One pass per view: batch norm must see each view alone, as the encoder will later.
        a, b = (self.projector(self.encoder(view)) for view in batch.views)
        loss = nt_xent(a, b, self.temperature)
        return Step(loss, metrics={"spread": spread(a)})

    def chance(self, batch: int) -> float:
        return math.log(2 * batch - 1)
