"""NNCLR: the positive is the nearest neighbour of one view's projection in a queue.

Source: Dwibedi et al. 2021, "With a Little Help from My Friends", arXiv:2104.14548, Eq. 3-4,
Sec. 3.2.
Differs: the look-up comes before the queue takes the batch, so that no image is its own neighbour
within a step.
Year: 2021
Negatives: the other images of the batch
Labels: no
Views: 2
State: queue
Against collapse: negatives
"""

import math
from typing import Any, Literal, final

from clctl.distributed import gather
from clctl.losses import nn_info_nce
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.nn.queue import Queue, length
from clctl.recipe.section import Count, Positive, Widths
from clctl.recipe.sections import Objective

PUBLISHED = 98304  # the paper's size for ImageNet


class Config(Objective):
    """projector: widths of its layers, output last; predictor: its hidden width.

    temperature: of InfoNCE; queue: projections that are kept; auto is the published 98,304, or
    the largest multiple of the batch up to half of the training set.
    """

    name: Literal["nnclr"] = "nnclr"
    projector: Widths = (2048, 2048, 256)
    predictor: Count = 4096
    temperature: Positive = 0.1
    queue: Count | Literal["auto"] = "auto"

    def build(self, encoder: Encoder, scale: Scale) -> "NNCLR":
        """The method around an encoder with freshly drawn heads."""
        return NNCLR(self, encoder, length(self.queue, PUBLISHED, scale.batch, scale.images))


@final
class NNCLR(Method):
    """Encoder, projector and predictor; the queue keeps projections of the first view."""

    def __init__(self, config: Config, encoder: Encoder, size: int) -> None:
        super().__init__()
        out = config.projector[-1]
        self.temperature = config.temperature
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector, last_norm=True)
        self.predictor = mlp(out, config.predictor, out)
        self.queue = Queue(size, out)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        support, temperature = self.queue.items, self.temperature
        loss_a = nn_info_nce(a, self.predictor(b), support, temperature)
        loss_b = nn_info_nce(b, self.predictor(a), support, temperature)
        carry = {"projections": a.detach()}
        return Step((loss_a + loss_b) / 2, watched(features, a), carry=carry)

    def after_step(self, step: Step, clock: Clock) -> None:
        self.queue.push(gather(step.carry["projections"]))

    def chance(self, batch: int) -> float:
        return math.log(batch)

    def facts(self) -> dict[str, Any]:
        return {"queue": f"{len(self.queue.items):,} projections"}
