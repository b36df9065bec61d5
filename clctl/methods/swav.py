"""SwAV: predict the balanced cluster assignment of one view from the other views.

Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", arXiv:2006.09882, Eq. 1-6, Sec. 3 and App. A.
Differs: the gradient of a prototype leaves out the part along it, which the renormalisation after
every step would take away.
Year: 2020
Negatives: none
Labels: no
Views: 2 or more; the first two give assignments
State: queue
Against collapse: equal share of every prototype (Sinkhorn)
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from clctl.distributed import gather, world
from clctl.losses import sinkhorn, swapped_prediction
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.crops import by_size
from clctl.nn.mlp import mlp
from clctl.nn.prototypes import Prototypes, number, told
from clctl.nn.queue import Queue, length
from clctl.recipe.section import Conflict, Count, Positive, Widths
from clctl.recipe.sections import Objective, Recipe

PUBLISHED = 3840  # App. A, for small batches
CLUSTERS = 3000  # the paper's number for ImageNet


class Config(Objective):
    """projector: widths of its layers, output last.

    prototypes: clusters; auto is the published 3,000, or a quarter of the training set.
    temperature: of the predictions; epsilon, iterations: of Sinkhorn; freeze_epochs: epochs in
    which prototypes stand still; queue: past projections of each of the two views that join the
    assignment; auto is the published 3,840, or the largest multiple of the batch up to half of
    the training set, null has none; queue_from: first epoch that uses it.
    """

    least: ClassVar[int] = 2
    most: ClassVar[int | None] = None
    name: Literal["swav"] = "swav"
    projector: Widths = (2048, 128)
    prototypes: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    iterations: Count = 3
    freeze_epochs: Annotated[float, Field(ge=0)] = 1.0
    queue: Count | Literal["auto"] | None = "auto"
    queue_from: Annotated[int, Field(ge=0)] = 15

    def conflicts(self, recipe: Recipe) -> Iterable[Conflict]:
        """The two views that are assigned must be of one size."""
        yield from super().conflicts(recipe)
        yield from recipe.views.unlike("swav")

    def build(self, encoder: Encoder, scale: Scale) -> "SwAV":
        """The method around an encoder with freshly drawn heads."""
        size = length(self.queue, PUBLISHED, scale.batch, scale.images) if self.queue else 0
        return SwAV(self, encoder, size, scale.images)


@final
class SwAV(Method):
    """Encoder, projector and prototypes."""

    def __init__(self, config: Config, encoder: Encoder, size: int, images: int | None) -> None:
        super().__init__()
        self.config, self.images = config, images
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector)
        count = number(config.prototypes, CLUSTERS, images)
        self.prototypes = Prototypes(config.projector[-1], count)
        self.queues = nn.ModuleList(
            Queue(size, config.projector[-1]) for _ in range(2 * (size > 0))
        )

    def forward(self, batch: Batch, clock: Clock) -> Step:
        views, config = batch.views, self.config
        features = torch.cat(by_size(self.encoder, views))
        projections = self.projector(features)
        scores = self.prototypes(projections).chunk(len(views))
        z = projections.detach().chunk(len(views))[:2]
        rows = len(views[0])
        with torch.no_grad():
            assignments = [
                sinkhorn(
                    torch.cat([*self._past(i, clock, rows), scores[i].detach()]),
                    config.epsilon,
                    config.iterations,
                )[-rows:]
                for i in range(2)
            ]
        loss = swapped_prediction(list(scores), assignments, config.temperature)
        predictions = torch.softmax(scores[0].detach() / config.temperature, dim=1)
        watch = watched(features[:rows], z[0], predictions=predictions)
        return Step(loss, watch, carry={"projections": torch.stack(z)})

    def _past(self, view: int, clock: Clock, rows: int) -> list[Tensor]:
        """Scores of this rank's part of the queue, once that is in use and full."""
        if not self.queues or clock.epoch < self.config.queue_from:
            return []
        rank, ranks = world()
        items = self.queues[view].get_buffer("items")
        full = clock.step * rows * ranks >= len(items)
        return [self.prototypes(items[rank::ranks])] if full else []

    def before_step(self, clock: Clock) -> None:
        if clock.epoch < self.config.freeze_epochs:
            self.prototypes.weight.grad = None

    def after_step(self, step: Step, clock: Clock) -> None:
        self.prototypes.renormalise()
        for queue, z in zip(self.queues, step.carry["projections"], strict=False):
            assert isinstance(queue, Queue)
            queue.push(gather(z.contiguous()))

    def chance(self, batch: int) -> float:
        return math.log(len(self.prototypes.weight))

    def facts(self) -> dict[str, Any]:
        size = len(self.queues[0].get_buffer("items")) if self.queues else 0
        start = self.config.queue_from
        queue = {"queue": f"{size:,} projections a view, from epoch {start}"} if size else {}
        return {**queue, "prototypes": told(len(self.prototypes.weight), self.images)}
