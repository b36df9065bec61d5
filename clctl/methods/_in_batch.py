"""What the methods share that tell two views of an image from the other images of the batch."""

import math
from collections.abc import Callable
from typing import final

from torch import Tensor

from clctl.method import Batch, Clock, Encoder, Method, Step, watched
from clctl.nn.mlp import mlp

Loss = Callable[[Tensor, Tensor], Tensor]


@final
class InBatch(Method):
    """Encoder and projector under a loss of two views, of which the batch gives the negatives."""

    def __init__(self, encoder: Encoder, projector: tuple[int, ...], loss: Loss) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, *projector)
        self.loss = loss

    def forward(self, batch: Batch, clock: Clock) -> Step:
        # One pass per view: batch norm must see each view alone, as the encoder will later.
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        return Step(self.loss(a, b), watched(features, a))

    def chance(self, batch: int) -> float:
        return math.log(2 * batch - 1)
