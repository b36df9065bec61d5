"""What MoCo v1 and v2 share: keys of a momentum encoder in a queue, normalised in groups."""

import math
from collections.abc import Iterable
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from clctl.console import Exit, Problem
from clctl.distributed import gather, world
from clctl.losses import info_nce
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, teacher_of
from clctl.nn.norm import assignment, grouped, synchronised
from clctl.nn.queue import Queue, length
from clctl.recipe.section import Conflict, Count, Positive, Share, Widths
from clctl.recipe.sections import Objective, Recipe


class MoCoConfig(Objective):
    """projector: widths of its layers, output last; temperature: of InfoNCE.

    queue: keys that are kept; auto is the published 65,536, or the largest multiple of the batch
    up to half of the training set; momentum: of the teacher, to momentum_final on half a cosine;
    bn_groups: parts of the batch in which keys are normalised, so that no statistics leak;
    symmetric: each view is query and key in turn, at twice the cost.
    """

    projector: Widths
    temperature: Positive
    queue: Count | Literal["auto"] = "auto"
    momentum: Share = 0.999
    momentum_final: Share = 0.999
    bn_groups: Count = 8
    symmetric: bool = False

    def conflicts(self, recipe: Recipe) -> Iterable[Conflict]:
        """Groups of keys must have one size, and more than one key."""
        yield from super().conflicts(recipe)
        batch = recipe.train.batch_size
        if batch % self.bn_groups or batch == self.bn_groups:
            fitting = [n for n in range(1, batch) if batch % n == 0]
            nearest = min(fitting, key=lambda n: abs(n - self.bn_groups))
            yield Conflict(
                "method.bn_groups",
                f"a batch of {batch} does not fall into {self.bn_groups} equal groups of keys",
                f"set method.bn_groups to {nearest}, or train.batch_size to a multiple of it",
            )


@final
class MoCo(Method):
    """Query encoder and projector; the teacher follows both and fills the queue."""

    def __init__(self, config: MoCoConfig, encoder: Encoder, scale: Scale) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector, norm=False)
        self.teacher = synchronised(teacher_of(encoder=self.encoder, projector=self.projector))
        _check_groups(self.teacher)
        size = length(config.queue, 65536, scale.batch, scale.images)
        self.queue = Queue(size, config.projector[-1])

    def forward(self, batch: Batch, clock: Clock) -> Step:
        a, b = batch.views
        features = self.encoder(a)
        query, key = self.projector(features), self._keys(b, clock)
        # The queue moves before the next backward reads it, so the loss keeps a copy.
        past, temperature = self.queue.items.clone(), self.config.temperature
        loss = info_nce(query, key, past, temperature)
        keys = [key]
        if self.config.symmetric:
            other, other_key = self.projector(self.encoder(b)), self._keys(a, clock)
            loss = (loss + info_nce(other, other_key, past, temperature)) / 2
            keys.append(other_key)
        return Step(loss, watched(features, query), carry={"keys": torch.stack(keys)})

    @torch.no_grad()
    def _keys(self, view: Tensor, clock: Clock) -> Tensor:
        groups, (rank, ranks) = self.config.bn_groups, world()
        drawn: Any = torch.compiler.disable(assignment)  # compiled code draws no numbers by a key
        parts = drawn(clock.seed, clock.step, len(view) * ranks, groups, rank, ranks)
        with grouped(self.teacher, parts.to(view.device), groups):
            return self.teacher(view).detach()

    def after_step(self, step: Step, clock: Clock) -> None:
        momentum = cosine(self.config.momentum, self.config.momentum_final, clock.fraction)
        follow(self.teacher, (self.encoder, self.projector), momentum)
        for keys in step.carry["keys"]:
            self.queue.push(gather(keys))

    def chance(self, batch: int) -> float:
        return math.log(1 + len(self.queue.items))

    def facts(self) -> dict[str, Any]:
        return {"queue": f"{len(self.queue.items):,} keys"}


def _check_groups(teacher: nn.Module) -> None:
    """Refuse at once what `grouped` would refuse at the first step."""
    try:
        with grouped(teacher, torch.zeros(0), 1):
            pass
    except ValueError as error:
        raise Problem(
            f"MoCo cannot normalise the keys of this encoder in groups: {error}",
            Exit.RECIPE,
            "recipe.norm",
            "take an encoder with plain batch norm (clctl list encoders), or moco_v3",
        ) from error
