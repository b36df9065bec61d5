"""Views alone, beside what else makes them: images per second, one image being two views.

    python tests/benchmarks/views.py [--rounds 7] [--set KEY=VALUE]
                                     [--device cpu|cuda] [--json FILE]

The policies are those of the packaged recipes, and all contenders get the same numbers and the
same pictures: `cifar10/` at 32 px, without blur, `imagenet/` at 64 px and from 160 to 96 px. On as
many cores, by turns in one process: clctl, the whole batch at once; lightly's transforms of PIL
images, in memory and from PNG files, in a DataLoader with a worker per core; torchvision v2 on
uint8 tensors, in a DataLoader likewise; kornia, the whole batch at once, whose crops are not
antialiased. Workers have started and their queue is empty when the clock starts. With `--device
cuda` clctl and kornia work there and the loaders stay where they are. About 8 minutes on two cores.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import kornia.augmentation as K  # pyright: ignore[reportMissingImports]
import numpy as np
import peers
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from clctl.commands._bench_stages import synchronise
from clctl.images import Images
from clctl.recipe.policy import ViewGroup, Views
from clctl.recipe.read import find, read
from clctl.rng import generator
from clctl.views.apply import make

# Folder of the recipe, side stored, side of a view, pictures of a batch.
CASES = (("cifar10", 32, 32, 256), ("imagenet", 64, 64, 128), ("imagenet", 160, 96, 64))
METHODS = ("simclr", "byol")
NAMES = ("clctl", "lightly", "lightly, PNG", "torchvision v2", "kornia")
SECONDS = 1.5  # that are timed, of each contender and round
WARM = 3  # calls before them: the first batches, and what loaders have prepared by then
LOADED = 32  # pictures of a loader's batch
ENDLESS = 2**20  # pictures, more than are taken


def paced(take: Callable[[], int], device: torch.device) -> float:
    """Images per second of `take`, which gives how many it took."""
    for _ in range(WARM):
        take()
    synchronise(device)
    images, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + SECONDS:
        images += take()
        synchronise(device)
    return images / (time.perf_counter() - begun)


def loaded(dataset: Dataset) -> float:
    """Images per second of a DataLoader; its workers end with it."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)  # type: ignore[arg-type]
    loader = DataLoader(dataset, batch_size=LOADED, sampler=sampler, num_workers=peers.CORES)
    batches: Iterator[Any] = iter(loader)

    def take() -> int:
        # As many as there are workers, for their batches come in together.
        return LOADED * sum(1 for _ in islice(batches, peers.CORES))

    return paced(take, torch.device("cpu"))


def batched(pictures: np.ndarray, policy: Views, device: torch.device) -> Callable[[], int]:
    """clctl's views of all pictures, each time others."""
    count, high, wide, _ = pictures.shape
    canvas = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    images = Images(canvas, torch.tensor([[high, wide]]).repeat(count, 1)).to(device)
    steps = iter(range(ENDLESS))

    def take() -> int:
        make(images, policy, generator("views benchmark", next(steps)), device)
        return count

    return take


def with_kornia(pictures: np.ndarray, policy: Views, device: torch.device) -> Callable[[], int]:
    """The same by kornia, from uint8 as well."""
    raw = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().to(device)
    views = _each_view(policy, _kornia)

    def take() -> int:
        with torch.no_grad():
            unit = raw.float() / 255
            for view in views:
                view(unit)
        return len(raw)

    return take


def _each_view(policy: Views, build: Callable[[Views, ViewGroup], nn.Module]) -> list[nn.Module]:
    return [build(policy, group) for group in policy.groups for _ in range(group.count)]


def _kernel(policy: Views, group: ViewGroup) -> int:
    """Width of the blur: the recipe's, else a tenth of the side."""
    own = group.blur and group.blur.kernel
    return own or max(3, policy.size // 20 * 2 + 1)


def _kornia(policy: Views, group: ViewGroup) -> nn.Module:
    crop, jitter, blur, solarize = group.crop, group.jitter, group.blur, group.solarize
    assert crop is not None
    assert jitter is not None
    side = (policy.size, policy.size)
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [
        K.RandomResizedCrop(side, crop.scale, crop.ratio, align_corners=False),
        K.RandomHorizontalFlip(p=group.hflip),
        K.ColorJitter(*strengths, p=jitter.p),
        K.RandomGrayscale(p=group.grayscale),
    ]
    if blur is not None:
        width = _kernel(policy, group)
        steps.append(K.RandomGaussianBlur((width, width), blur.sigma, p=blur.p))
    if solarize is not None:
        at = (solarize.threshold, solarize.threshold)
        steps.append(K.RandomSolarize(at, (0.0, 0.0), p=solarize.p))
    steps.append(K.Normalize(torch.tensor(policy.mean), torch.tensor(policy.std)))
    return nn.Sequential(*steps)


def _torchvision(policy: Views, group: ViewGroup) -> nn.Module:
    crop, jitter, blur, solarize = group.crop, group.jitter, group.blur, group.solarize
    assert crop is not None
    assert jitter is not None
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps: list[nn.Module] = [
        v2.RandomResizedCrop(policy.size, crop.scale, crop.ratio, antialias=True),
        v2.RandomHorizontalFlip(group.hflip),
        v2.RandomApply([v2.ColorJitter(*strengths)], jitter.p),
        v2.RandomGrayscale(group.grayscale),
    ]
    if blur is not None:
        steps.append(v2.RandomApply([v2.GaussianBlur(_kernel(policy, group), blur.sigma)], blur.p))
    if solarize is not None:
        steps.append(v2.RandomSolarize(255 * solarize.threshold, solarize.p))
    ending = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(policy.mean, policy.std)]
    return v2.Compose([*steps, *ending])


class Tensors(Dataset):
    """Pictures as uint8 tensors under torchvision v2, each on its own."""

    def __init__(self, pictures: np.ndarray, policy: Views) -> None:
        self.pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        self.views = _each_view(policy, _torchvision)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [view(self.pictures[index]) for view in self.views]


def files(pictures: np.ndarray, folder: Path) -> Sequence[Path]:
    """The pictures as PNG files."""
    paths = [folder / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def case(
    policy: Views, stored: int, batch: int, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Images per second of each contender, one entry per round."""
    pictures = peers.smooth(batch, stored)
    ours, kornia = batched(pictures, policy, device), with_kornia(pictures, policy, device)
    lightly, tensors = peers.lightly_views(policy), Tensors(pictures, policy)
    with tempfile.TemporaryDirectory(prefix="views-") as folder:
        pngs = files(pictures, Path(folder))
        contenders = (
            lambda: paced(ours, device),
            lambda: loaded(peers.Pictures(pictures, lightly)),
            lambda: loaded(peers.Pictures(pngs, lightly)),
            lambda: loaded(tensors),
            lambda: paced(kornia, device),
        )
        return peers.turns(dict(zip(NAMES, contenders, strict=True)), rounds)


def main() -> None:
    """Measure and print a table."""
    asked = peers.parser(__doc__, rounds=7).parse_args()
    device = torch.device(asked.device)
    facts, rows = peers.machine(device), []
    print(
        peers.heading(
            ("views", "stored", "side", *NAMES, *(f"clctl / {name}" for name in NAMES[1:]))
        )
    )
    for folder, stored, size, batch in CASES:
        for method in METHODS:
            recipe = f"{folder}/{method}"
            policy = read(find(recipe), (f"views.size={size}", *asked.set)).views
            found = case(policy, stored, batch, asked.rounds, device)
            ours, *others = found.values()
            rates = [f"{median(rates):,.0f}" for rates in found.values()]
            ratios = [peers.ratio(ours, theirs) for theirs in others]
            print(peers.line([recipe, stored, size, *rates, *ratios]), flush=True)
            setting = {"recipe": recipe, "stored": stored, "size": size, "batch": batch}
            rows.append({**setting, "images_per_second": found})
    peers.keep(asked.json, {**facts, "set": asked.set}, rows)
    print(f"\nimages/s, medians of {asked.rounds} rounds; {peers.about(facts)}")


if __name__ == "__main__":
    main()
