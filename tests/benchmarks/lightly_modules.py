"""SimCLR and BYOL of lightly's parts, as its documentation has them, after a recipe of clctl.

A `training_step` stands for itself too: it needs no Trainer around it.
"""

import copy
import logging
import warnings
from typing import Any

import torch
from lightly import loss  # pyright: ignore[reportMissingImports]
from lightly.models.modules import heads  # pyright: ignore[reportMissingImports]
from lightly.models.utils import (  # pyright: ignore[reportMissingImports]
    deactivate_requires_grad,
    update_momentum,
)
from lightly.utils.scheduler import cosine_schedule  # pyright: ignore[reportMissingImports]
from pytorch_lightning import LightningModule  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from clctl.commands import _setup
from clctl.optim import peak
from clctl.recipe.sections import Recipe


class SimCLR(LightningModule):
    """SimCLR of lightly's parts."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config: Any = recipe.method
        self.recipe = recipe
        self.backbone = _setup.encoder(recipe)
        self.projection_head = heads.SimCLRProjectionHead(self.backbone.width, *config.projector)
        self.criterion = loss.NTXentLoss(temperature=config.temperature)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first, second = (self.projection_head(self.backbone(view)) for view in batch[0])
        return self.criterion(first, second)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self, self.recipe)


class BYOL(LightningModule):
    """BYOL of lightly's parts."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config: Any = recipe.method
        out = config.projector[-1]
        self.recipe, self.momentum = recipe, config.momentum
        self.backbone = _setup.encoder(recipe)
        self.projection_head = heads.BYOLProjectionHead(self.backbone.width, *config.projector)
        self.prediction_head = heads.BYOLPredictionHead(out, config.predictor, out)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = loss.NegativeCosineSimilarity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        m = cosine_schedule(self.current_epoch, self.recipe.train.epochs, self.momentum, 1.0)
        update_momentum(self.backbone, self.backbone_momentum, m=m)
        update_momentum(self.projection_head, self.projection_head_momentum, m=m)
        views = batch[0]
        p, q = (self.prediction_head(self.projection_head(self.backbone(v))) for v in views)
        with torch.no_grad():
            y, z = (self.projection_head_momentum(self.backbone_momentum(v)) for v in views)
        return (self.criterion(p, z) + self.criterion(q, y)) / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self, self.recipe)


def sgd(peer: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer as one writes it by hand."""
    config: Any = recipe.optimizer
    rate = peak(config, recipe.train.batch_size)
    return torch.optim.SGD(
        peer.parameters(), rate, config.momentum, weight_decay=config.weight_decay
    )


def module(recipe: Recipe) -> SimCLR | BYOL:
    """lightly's method of the same name."""
    return SimCLR(recipe) if recipe.method.name == "simclr" else BYOL(recipe)


def quiet() -> None:
    """Keep Lightning from talking into a table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
