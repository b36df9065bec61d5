"""BYOL: predict a momentum teacher's projection of the other view; no negatives.

Source: Grill et al. 2020, "Bootstrap Your Own Latent", arXiv:2006.07733, Eq. 1-2, Sec. 3.3.
Differs: averages the two directions where the paper adds them, so the loss is half of its.
"""

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import nn

from clctl.losses import byol
from clctl.method import Batch, Clock, Encoder, Method, Step
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, frozen_copy
from clctl.nn.spread import spread
from clctl.recipe.sections import Count, Section, Share


class Config(Section):
    """projector: widths of its layers, output last; predictor: its hidden width.

    momentum: of the teacher at step 0, in [0, 1]; it rises to 1 on half a cosine.
    """

    views: ClassVar[int] = 2
    name: Literal["byol"] = "byol"
    projector: Annotated[tuple[Count, ...], Field(min_length=1)] = (4096, 256)
    predictor: Count = 4096
    momentum: Share = 0.996

    def build(self, encoder: Encoder) -> "BYOL":
        """The method around an encoder with freshly drawn heads."""
        return BYOL(self, encoder)


@final
class BYOL(Method):
    """Online encoder, projector and predictor; the teacher follows the first two."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        out = config.projector[-1]
        self.momentum = config.momentum
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)
        self.predictor = mlp(out, config.predictor, out)
        self.teacher = frozen_copy(nn.Sequential(self.encoder, self.projector))

    def forward(self, batch: Batch, clock: Clock) -> Step:
        # One pass per view: batch norm must see each view alone, as in the paper.
        a, b = batch.views
        predicted_a, predicted_b = (self.predictor(self.projector(self.encoder(v))) for v in (a, b))
        with torch.no_grad():
            target_a, target_b = self.teacher(a), self.teacher(b)
        loss = (byol(predicted_a, target_b) + byol(predicted_b, target_a)) / 2
        return Step(loss, metrics={"spread": spread(target_a)})

    def after_step(self, step: Step, clock: Clock) -> None:
        momentum = cosine(self.momentum, 1.0, clock.fraction)
        follow(self.teacher, (self.encoder, self.projector), momentum)
