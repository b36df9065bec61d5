"""Batched views beside a per-image torchvision pipeline with two loader workers; same policy.

    python tests/benchmarks/views.py [ROUNDS]

Images per second, one image being two views, medians over interleaved rounds.
"""

import sys
import time
from itertools import islice
from statistics import median

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from clctl.images import Images
from clctl.recipe.policy import Blur, Crop, Jitter, ViewGroup, Views
from clctl.rng import generator
from clctl.views.apply import make

CASES = ((32, 32, 256), (64, 64, 128), (160, 96, 64))  # side stored, side of a view, batch
BATCHES = 6


class PerImage(Dataset):
    """What a script with torchvision does: each image on its own, in a worker."""

    def __init__(self, images: torch.Tensor, size: int) -> None:
        kernel = max(3, size // 20 * 2 + 1)
        self.images = images
        self.views = v2.Compose(
            [
                v2.RandomResizedCrop(size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], 0.5),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index % len(self.images)]
        return self.views(image), self.views(image)


def photographs(count: int, side: int) -> torch.Tensor:
    """Smooth random pictures: uint8 [count, 3, side, side]."""
    coarse = torch.rand(count, 3, 9, 9, generator=generator(0, "pictures"))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return smooth.clamp(0, 1).mul(255).byte()


def main(rounds: int) -> None:
    """Measure and print one line per case."""
    group = ViewGroup(count=2, crop=Crop(), hflip=0.5, jitter=Jitter(), grayscale=0.2, blur=Blur())
    for side, size, batch in CASES:
        pictures = photographs(batch, side)
        policy = Views(size=size, groups=(group,))
        images = Images(
            pictures.contiguous(memory_format=torch.channels_last),
            torch.tensor([[side, side]]).repeat(batch, 1),
        )
        ours, theirs = [], []
        for turn in range(rounds):
            begun = time.perf_counter()
            for step in range(BATCHES):
                make(images, policy, generator(turn, step), torch.device("cpu"))
            ours.append(BATCHES * batch / (time.perf_counter() - begun))
            loader = iter(DataLoader(PerImage(pictures, size), batch_size=32, num_workers=2))
            next(loader)  # workers have started
            few = max(4, BATCHES * batch // 64)
            begun = time.perf_counter()
            for _ in islice(loader, few):
                pass
            theirs.append(few * 32 / (time.perf_counter() - begun))
            del loader
        print(
            f"{side} px to {size} px: batched {median(ours):,.0f}, per image with 2 workers "
            f"{median(theirs):,.0f} images/s, ratio {median(ours) / median(theirs):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
