"""Triplet learning: an anchor nearer to its positive than to a negative, by a margin.

Source: Schroff et al. 2015, "FaceNet", arXiv:1503.03832, Eq. 1-4 (semi-hard mining); Hermans et
al. 2017, "In Defense of the Triplet Loss", arXiv:1703.07737, Eq. 5 (hard mining, P x K batches).
Differs: two views of every image stand in the batch; without labels they are its only positives.
Year: 2015
Negatives: mined in the batch
Labels: optional
Views: 2
State: none
Against collapse: negatives
"""

from collections.abc import Iterable
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch.nn import functional as F

from clctl.distributed import world
from clctl.losses import mined_triplet
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.recipe.section import Conflict, Widths
from clctl.recipe.sections import Objective, Recipe


class Config(Objective):
    """projector: widths of its layers, output last.

    positives: views of one image, or all images of one label; mining: of negatives, see
    `clctl.losses.mined_triplet`; margin: between distances of unit vectors; per_class: images of
    each class in a batch where positives are labels.
    """

    name: Literal["triplet"] = "triplet"
    projector: Widths = (2048, 128)
    positives: Literal["views", "labels"] = "views"
    mining: Literal["semi_hard", "hard", "all"] = "semi_hard"
    margin: Annotated[float, Field(gt=0, le=2)] = 0.2
    squared: bool = False
    per_class: Annotated[int, Field(ge=2)] = 4

    @property
    def supervised(self) -> bool:
        """Whether positives are taken by label."""
        return self.positives == "labels"

    def conflicts(self, recipe: Recipe) -> Iterable[Conflict]:
        """A batch must hold whole groups, of two classes at least."""
        yield from super().conflicts(recipe)
        batch = recipe.train.batch_size
        if self.supervised and (batch % self.per_class or batch < 2 * self.per_class):
            yield Conflict(
                "method.per_class",
                f"a batch of {batch} does not fall into classes of {self.per_class} images",
                "let train.batch_size be a multiple of method.per_class, twice it at least",
            )

    def build(self, encoder: Encoder, scale: Scale) -> "Triplet":
        """The method around an encoder with a freshly drawn projector."""
        return Triplet(self, encoder)


@final
class Triplet(Method):
    """Encoder and projector; the triplets are mined on the unit sphere."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.uses_labels = config.supervised
        self.per_class = config.per_class if config.supervised else None
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        z = F.normalize(torch.cat([self.projector(h) for h in seen]), dim=1)
        if self.uses_labels:
            assert batch.labels is not None
            labels = batch.labels
        else:
            labels = torch.arange(len(features), device=z.device) + world()[0] * len(features)
        config = self.config
        loss = mined_triplet(z, labels.repeat(2), config.mining, config.margin, config.squared)
        return Step(loss, watched(features, z))

    def chance(self, batch: int) -> float:
        return self.config.margin
