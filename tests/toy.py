"""A problem that trains in milliseconds: 128 random pictures, views with noise, a tiny encoder."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clctl.engine import Plan
from clctl.method import Batch, Encoder, Method, Scale
from clctl.recipe.plugins import config
from clctl.rng import generator, seeded

IMAGES, BATCH, PER_EPOCH = 128, 32, 4
SMALL = {
    "barlow_twins": {"projector": (32, 32, 16)},
    "byol": {"projector": (32, 16), "predictor": 32, "momentum": 0.9},
    "cpc": {"patch": 4, "stride": 2, "width": 16, "hidden": 16, "steps": 1, "skip": 0},
    "debiased": {"projector": (32, 16)},
    "dino": {"projector": (32, 16), "prototypes": 24, "momentum": 0.9, "freeze_epochs": 0.5},
    "hard_negative": {"projector": (32, 16)},
    "moco_v1": {"projector": (16,), "momentum": 0.9, "bn_groups": 4, "queue": 72},
    "moco_v2": {"projector": (32, 16), "momentum": 0.9, "bn_groups": 4, "symmetric": True},
    "moco_v3": {"projector": (32, 16), "predictor": 32, "momentum": 0.9},
    "nnclr": {"projector": (32, 16), "predictor": 32, "queue": 40},
    "simclr": {"projector": (32, 16), "temperature": 0.2},
    "simsiam": {"projector": (32, 16), "predictor": 8},
    "supcon": {"projector": (32, 16)},
    "swav": {"projector": (32, 16), "prototypes": 24, "queue_from": 1, "freeze_epochs": 0.5},
    "triplet": {"projector": (32, 16), "positives": "labels"},
    "vicreg": {"projector": (32, 32, 16)},
}
SIZES = {"cpc": (8,), "dino": (8, 8, 4, 4), "swav": (8, 8, 4)}  # of the views; two of 8 elsewhere


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


class Pooled(Encoder):
    """Two convolutions and a mean: 16 features of pictures of any size, without batch norm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(16, self.width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(dim=(2, 3))


def method(name: str, seed: int = 0, dropout: float = 0.0, **changes: object) -> Method:
    """A small one, around an encoder that takes what the method feeds it."""
    with seeded("methods", seed):
        settings = config("clctl.methods", name)(**{**SMALL.get(name, {}), **changes})
        encoder = Pooled(dropout) if name in SIZES else Toy(dropout)
        return settings.build(encoder, Scale(BATCH, IMAGES))


def batches(seed: int, start: int) -> Iterator[Tensor]:
    """Batches of pictures from step `start` on, in an order of their own in every epoch."""
    images = torch.randn(IMAGES, 3, 8, 8, generator=generator(seed, "images"))
    step = start
    while True:
        epoch, position = divmod(step, PER_EPOCH)
        order = torch.randperm(IMAGES, generator=generator(seed, "order", epoch))
        yield images[order[position * BATCH :][:BATCH]]
        step += 1


def views(
    seed: int, step: int, images: Tensor, noise: float = 0.5, sizes: tuple[int, ...] = (8, 8)
) -> Batch:
    """Corners of the pictures under fresh noise; four images that follow each other are a class."""
    key = generator(seed, "views", step)
    corners = [images[..., :size, :size] for size in sizes]
    drawn = (x + noise * torch.randn(x.shape, generator=key) for x in corners)
    return Batch(tuple(drawn), torch.arange(len(images)) // 4)


def plan(
    total: int,
    seed: int = 0,
    lr: float = 0.1,
    noise: float = 0.5,
    sizes: tuple[int, ...] = (8, 8),
) -> Plan:
    """A run on the toy problem at a constant rate."""
    return Plan(
        seed=seed,
        total=total,
        per_epoch=PER_EPOCH,
        device=torch.device("cpu"),
        batches=lambda start: batches(seed, start),
        views=lambda images, step: views(seed, step, images, noise, sizes),
        lr=lambda clock: lr,
        peak=lr,
    )
