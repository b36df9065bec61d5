"""MoCo v3: predict a momentum teacher's key among those of the batch, both ways; no queue.

Source: Chen et al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers",
arXiv:2104.02057, Alg. 1, Sec. 3 and 4; for a ViT freeze the patch embedding
(`encoder.frozen_patch: true`, Sec. 4.1).
Year: 2021
Negatives: the keys of the batch's other images
Labels: no
Views: 2
State: teacher
Against collapse: negatives
"""

import math
from typing import Literal, final

import torch

from clctl.losses import moco_v3
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, teacher_of
from clctl.recipe.section import Count, Positive, Share, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; predictor: its hidden width.

    predictor_norm: whether the predictor, too, ends in a batch norm without scale (for ViTs);
    temperature: of InfoNCE; momentum: of the teacher at step 0; it rises to 1 on half a cosine.
    """

    name: Literal["moco_v3"] = "moco_v3"
    projector: Widths = (4096, 256)
    predictor: Count = 4096
    predictor_norm: bool = False
    temperature: Positive = 1.0
    momentum: Share = 0.99

    def build(self, encoder: Encoder, scale: Scale) -> "MoCoV3":
        """The method around an encoder with freshly drawn heads."""
        return MoCoV3(self, encoder)


@final
class MoCoV3(Method):
    """Online encoder, projector and predictor; the teacher follows the first two."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        out = config.projector[-1]
        self.momentum, self.temperature = config.momentum, config.temperature
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector, last_norm=True)
        self.predictor = mlp(out, config.predictor, out, last_norm=config.predictor_norm)
        self.teacher = teacher_of(encoder=self.encoder, projector=self.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        a, b = batch.views
        features, _ = seen = [self.encoder(view) for view in (a, b)]
        query_a, query_b = (self.predictor(self.projector(h)) for h in seen)
        with torch.no_grad():
            key_a, key_b = self.teacher(a), self.teacher(b)
        loss = moco_v3(query_a, key_b, self.temperature) + moco_v3(query_b, key_a, self.temperature)
        return Step(loss, watched(features, key_a))

    def after_step(self, step: Step, clock: Clock) -> None:
        momentum = cosine(self.momentum, 1.0, clock.fraction)
        follow(self.teacher, (self.encoder, self.projector), momentum)

    def chance(self, batch: int) -> float:
        return 4 * self.temperature * math.log(batch)
