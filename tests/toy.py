"""A problem that trains in milliseconds: 128 random pictures, views with noise, a tiny encoder."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clctl.engine import Plan
from clctl.method import Batch, Encoder
from clctl.rng import generator

IMAGES, BATCH, PER_EPOCH = 128, 32, 4


class Toy(Encoder):
    """One convolution and one layer: 16 features of pictures of 8 x 8 pixels."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(8 * 16, self.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def batches(seed: int, start: int) -> Iterator[Tensor]:
    """Batches of pictures from step `start` on, in an order of their own in every epoch."""
    images = torch.randn(IMAGES, 3, 8, 8, generator=generator(seed, "images"))
    step = start
    while True:
        epoch, position = divmod(step, PER_EPOCH)
        order = torch.randperm(IMAGES, generator=generator(seed, "order", epoch))
        yield images[order[position * BATCH :][:BATCH]]
        step += 1


def views(seed: int, step: int, images: Tensor, noise: float = 0.5, count: int = 2) -> Batch:
    """The pictures under fresh noise, and labels that no method should want."""
    key = generator(seed, "views", step)
    drawn = (images + noise * torch.randn(images.shape, generator=key) for _ in range(count))
    return Batch(tuple(drawn), torch.arange(len(images)))


def plan(total: int, seed: int = 0, lr: float = 0.1, noise: float = 0.5, count: int = 2) -> Plan:
    """A run on the toy problem at a constant rate."""
    return Plan(
        seed=seed,
        total=total,
        per_epoch=PER_EPOCH,
        device=torch.device("cpu"),
        batches=lambda start: batches(seed, start),
        views=lambda images, step: views(seed, step, images, noise, count),
        lr=lambda clock: lr,
        peak=lr,
    )
