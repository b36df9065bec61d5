"""DINO: the small crops' distribution over prototypes follows the teacher's of the large ones.

Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers",
arXiv:2104.14294, Alg. 1, Eq. 1-4, App. C.
Year: 2021
Negatives: none
Labels: no
Views: 2 large and 1 or more small
State: teacher, center
Against collapse: centering and sharpening of the teacher
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from clctl.losses import dino, update_center
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.crops import by_size
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, teacher_of
from clctl.nn.prototypes import Prototypes, number, told
from clctl.recipe.section import Conflict, Positive, Share, Widths
from clctl.recipe.sections import Objective, Recipe

PUBLISHED = 65536  # the paper's number for ImageNet


class Config(Objective):
    """projector: widths of its layers, output last.

    prototypes: entries of the distributions; auto is the published 65,536, or a quarter of the
    training set.
    norm: batch norm in the projector (for ResNets); student_temperature: of the student;
    teacher_temperature: of the teacher, reached linearly from teacher_temperature_start over
    teacher_warmup epochs; momentum: of the teacher at step 0, it rises to 1 on half a cosine;
    center_momentum: of the center; freeze_epochs: epochs in which prototypes stand still.
    """

    least: ClassVar[int] = 3
    most: ClassVar[int | None] = None
    name: Literal["dino"] = "dino"
    projector: Widths = (2048, 2048, 256)
    prototypes: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    norm: bool = False
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    teacher_temperature_start: Positive = 0.04
    teacher_warmup: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.996
    center_momentum: Share = 0.9
    freeze_epochs: Annotated[float, Field(ge=0)] = 1.0

    def conflicts(self, recipe: Recipe) -> Iterable[Conflict]:
        """The two views that the teacher sees must be of one size."""
        yield from super().conflicts(recipe)
        yield from recipe.views.unlike("dino")

    def build(self, encoder: Encoder, scale: Scale) -> "DINO":
        """The method around an encoder with freshly drawn heads."""
        return DINO(self, encoder, scale.images)


@final
class DINO(Method):
    """Student encoder, projector and prototypes; the teacher follows all three and is evaluated."""

    evaluated = "teacher.encoder"
    center: Tensor

    def __init__(self, config: Config, encoder: Encoder, images: int | None) -> None:
        super().__init__()
        self.config, self.images = config, images
        self.encoder = encoder
        widths = (encoder.width, *config.projector)
        self.projector = mlp(*widths, norm=config.norm, activation=nn.GELU)
        count = number(config.prototypes, PUBLISHED, images)
        self.prototypes = Prototypes(config.projector[-1], count)
        self.teacher = teacher_of(
            encoder=self.encoder, projector=self.projector, prototypes=self.prototypes
        )
        self.register_buffer("center", torch.zeros(count))

    def forward(self, batch: Batch, clock: Clock) -> Step:
        views, config = batch.views, self.config
        features = torch.cat(by_size(self.encoder, views))
        student = self.prototypes(self.projector(features)).chunk(len(views))
        temperature = self._temperature(clock)
        with torch.no_grad():
            seen = torch.cat(by_size(self.teacher.get_submodule("encoder"), views[:2]))
            z = self.teacher.get_submodule("projector")(seen)
            teacher = self.teacher.get_submodule("prototypes")(z)
        # The center moves before a later backward could read it, so the loss keeps a copy.
        center = self.center.clone()
        pair = list(teacher.chunk(2))
        loss = dino(list(student), pair, center, config.student_temperature, temperature)
        rows = len(views[0])
        predictions = torch.softmax(student[0].detach() / config.student_temperature, dim=1)
        watch = watched(features[:rows], z[:rows], predictions=predictions)
        return Step(loss, watch, carry={"teacher": teacher.mean(dim=0, keepdim=True)})

    def _temperature(self, clock: Clock) -> Tensor:
        """Of the teacher: float32 []."""
        start, end = self.config.teacher_temperature_start, self.config.teacher_temperature
        warmup = self.config.teacher_warmup * clock.per_epoch / clock.total
        share = (
            (clock.fraction / warmup).clamp(max=1) if warmup else torch.ones_like(clock.fraction)
        )
        return start + (end - start) * share

    def before_step(self, clock: Clock) -> None:
        if clock.epoch < self.config.freeze_epochs:
            self.prototypes.weight.grad = None

    def after_step(self, step: Step, clock: Clock) -> None:
        momentum = cosine(self.config.momentum, 1.0, clock.fraction)
        follow(self.teacher, (self.encoder, self.projector, self.prototypes), momentum)
        mean = [step.carry["teacher"]]
        self.center.copy_(update_center(self.center, mean, self.config.center_momentum))

    def chance(self, batch: int) -> float:
        return math.log(len(self.prototypes.weight))

    def facts(self) -> dict[str, Any]:
        return {"prototypes": told(len(self.prototypes.weight), self.images)}
