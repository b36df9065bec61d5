"""SupCon: pull all views of one class together, away from all others.

Source: Khosla et al. 2020, "Supervised Contrastive Learning", arXiv:2004.11362, Eq. 2.
Differs: no factor temperature / base temperature, which the authors' code has; batch norm behind
the hidden layers of the projector.
Year: 2020
Negatives: the batch's images of other classes
Labels: yes
Views: 2
State: none
Against collapse: negatives
"""

import math
from typing import Literal, final

import torch

from clctl.losses import sup_con
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.recipe.section import Positive, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; temperature: of the similarities."""

    name: Literal["supcon"] = "supcon"
    projector: Widths = (2048, 128)
    temperature: Positive = 0.1

    @property
    def supervised(self) -> bool:
        """It always does."""
        return True

    def build(self, encoder: Encoder, scale: Scale) -> "SupCon":
        """The method around an encoder with a freshly drawn projector."""
        return SupCon(self, encoder)


@final
class SupCon(Method):
    """Encoder and projector."""

    uses_labels = True

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        assert batch.labels is not None
        loss = sup_con(torch.cat([a, b]), batch.labels.repeat(2), self.temperature)
        return Step(loss, watched(features, a))

    def chance(self, batch: int) -> float:
        return math.log(2 * batch - 1)
