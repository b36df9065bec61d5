"""BYOL: predict a momentum teacher's projection of the other view; no negatives.

Source: Grill et al. 2020, "Bootstrap Your Own Latent", arXiv:2006.07733, Eq. 1-2, Sec. 3.3.
Differs: averages the two directions where the paper adds them, so the loss is half of its.
Year: 2020
Negatives: none
Labels: no
Views: 2
State: teacher
Against collapse: predictor and momentum teacher
"""

from typing import Literal, final

import torch
from torch import nn

from clctl.losses import byol
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, teacher_of
from clctl.recipe.section import Count, Share, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; predictor: its hidden width.

    momentum: of the teacher at step 0; it rises to 1 on half a cosine.
    predictor null has none, to see the collapse that it prevents.
    """

    name: Literal["byol"] = "byol"
    projector: Widths = (4096, 256)
    predictor: Count | None = 4096
    momentum: Share = 0.996

    def build(self, encoder: Encoder, scale: Scale) -> "BYOL":
        """The method around an encoder with freshly drawn heads."""
        return BYOL(self, encoder)


@final
class BYOL(Method):
    """Online encoder, projector and predictor; the teacher follows the first two."""

    ideal = 0.0

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        out = config.projector[-1]
        self.momentum = config.momentum
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)
        self.predictor = mlp(out, config.predictor, out) if config.predictor else nn.Identity()
        self.teacher = teacher_of(encoder=self.encoder, projector=self.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        # One pass per view: batch norm must see each view alone, as in the paper.
        a, b = batch.views
        features_a, features_b = self.encoder(a), self.encoder(b)
        predicted_a = self.predictor(self.projector(features_a))
        predicted_b = self.predictor(self.projector(features_b))
        with torch.no_grad():
            target_a, target_b = self.teacher(a), self.teacher(b)
        loss = (byol(predicted_a, target_b) + byol(predicted_b, target_a)) / 2
        return Step(loss, watched(features_a, target_a))

    def after_step(self, step: Step, clock: Clock) -> None:
        momentum = cosine(self.momentum, 1.0, clock.fraction)
        follow(self.teacher, (self.encoder, self.projector), momentum)
