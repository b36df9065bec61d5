"""CPC for images: from the patches above, predict those below among all patches of the batch.

Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding",
arXiv:1807.03748, Eq. 3-4, Sec. 3.3 (images).
Differs: the context is a GRU down each column, or masked convolutions without PixelCNN's gates;
the targets are projected, as is the context, and all targets of one step are the candidates;
the row directly below is left out, as in later code (Löwe et al. 2019, arXiv:1905.11786), for it
shares pixels with what was seen.
Year: 2018
Negatives: the batch's other patches
Labels: no
Views: 1
State: none
Against collapse: negatives
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clctl.losses import n_pair
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.recipe.section import Conflict, Count
from clctl.recipe.sections import Objective, Recipe


class Config(Objective):
    """patch, stride: side of the square patches and the step from one to the next, in pixels.

    width: of the codes that are predicted; context: what reads the rows above, a GRU or three
    masked convolutions; hidden: its width; steps: how many rows further down are predicted;
    skip: rows directly below that are not, since their patches overlap with what was seen.
    """

    least: ClassVar[int] = 1
    most: ClassVar[int | None] = 1
    name: Literal["cpc"] = "cpc"
    patch: Count = 64
    stride: Count = 32
    width: Count = 256
    context: Literal["gru", "conv"] = "gru"
    hidden: Count = 256
    steps: Count = 5
    skip: Annotated[int, Field(ge=0)] = 1

    def grid(self, size: int) -> int:
        """Patches along a side of a view."""
        return (size - self.patch) // self.stride + 1

    def conflicts(self, recipe: Recipe) -> Iterable[Conflict]:
        """Patches must tile the view with rows left to predict, and share no statistics."""
        yield from super().conflicts(recipe)
        size, encoder = recipe.views.sizes[0], recipe.encoder
        rows = 1 + self.skip + self.steps
        reach = self.patch + (rows - 1) * self.stride
        if size < reach:
            yield Conflict(
                "method.steps",
                f"{self.steps} steps behind {self.skip} want {rows} rows of patches, a side of "
                f"{reach} pixels; a view of {size} has {max(self.grid(size), 0)} rows",
                "set views.size higher, or method.patch, stride, steps or skip lower",
            )
        elif (size - self.patch) % self.stride:
            fits = self.patch + (self.grid(size) - 1) * self.stride
            yield Conflict(
                "method.stride",
                f"patches of {self.patch} every {self.stride} pixels do not tile a view of {size}",
                f"set views.size to {fits} or {fits + self.stride}",
            )
        if getattr(encoder, "norm", None) == "batch":
            yield Conflict(
                "encoder",
                "batch norm lets a patch see its neighbours, which cpc has to predict",
                "set encoder.norm to group",
            )

    def build(self, encoder: Encoder, scale: Scale) -> "CPC":
        """The method around an encoder with freshly drawn heads."""
        return CPC(self, encoder)


@final
class CPC(Method):
    """Encoder of patches, context over the rows above, and one linear prediction per step down."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = nn.Linear(encoder.width, config.width)
        kind = Columns if config.context == "gru" else Rows
        self.context = kind(config.width, config.hidden)
        self.predictors = nn.ModuleList(
            nn.Linear(config.hidden, config.width) for _ in range(config.steps)
        )

    def forward(self, batch: Batch, clock: Clock) -> Step:
        (view,), patch, stride = batch.views, self.config.patch, self.config.stride
        patches = view.unfold(2, patch, stride).unfold(3, patch, stride)
        high, wide = patches.shape[2:4]
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        features = self.encoder(patches.contiguous())
        z = self.projector(features).unflatten(0, (len(view), high, wide))
        context = self.context(z)
        losses = [
            n_pair(predictor(context[:, :-step]).flatten(0, 2), z[:, step:].flatten(0, 2))
            for step, predictor in enumerate(self.predictors, 1 + self.config.skip)
        ]
        return Step(torch.stack(losses).mean(), watched(features, z.flatten(0, 2)))


class Columns(nn.Module):
    """A GRU down every column of a grid: [B, rows, columns, width] -> [..., hidden]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        count, _, wide, _ = z.shape
        down = z.transpose(1, 2).flatten(0, 1)
        return self.gru(down)[0].unflatten(0, (count, wide)).transpose(1, 2)


class Rows(nn.Module):
    """Convolutions that see only this row and those above: [B, rows, columns, width] -> [..., hidden].

    No norm stands between them: one over the grid would tell of the rows below.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, hidden, 1)
        self.layers = nn.ModuleList(nn.Conv2d(hidden, hidden, (2, 3)) for _ in range(3))

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z.permute(0, 3, 1, 2))
        for layer in self.layers:
            x = x + F.relu(layer(F.pad(x, (1, 1, 1, 0))))
        return x.permute(0, 2, 3, 1)
