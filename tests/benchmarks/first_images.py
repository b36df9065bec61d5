"""CIFAR-10 with its first images alone, as files: the data of the README's table for two cores.

    python tests/benchmarks/first_images.py OUT [--data PATH] [--images 10000]

PATH is a folder with train.npz and test.npz; without it CIFAR-10 is downloaded, 170 MB, or taken
from clctl's cache. OUT gets train.npz, with the first of the training images, and all of test.npz.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from clctl.data.open import load
from clctl.images import Split


def save(path: Path, part: Split, classes: tuple[str, ...] | None, count: int) -> None:
    """The first images of a part, as clctl reads them: uint8 [N, H, W, 3] and labels [N]."""
    images = part.images.canvas[:count].permute(0, 2, 3, 1)
    labels = None if part.labels is None else part.labels[:count]
    if classes is None or labels is None:
        raise SystemExit(f"{part.name} has no labels")
    np.savez(path, images=images.numpy(), labels=labels.numpy(), classes=np.array(classes))


def main() -> None:
    """Read, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=10_000)
    asked = parser.parse_args()
    named = SimpleNamespace(name="cifar10", root=None)
    config = SimpleNamespace(name="arrays", path=asked.data) if asked.data else named
    dataset = load(config, 32, print, download=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", asked.images), ("test", None)):
        part = dataset.splits[name]
        save(asked.out / f"{name}.npz", part, dataset.classes, count or len(part))


if __name__ == "__main__":
    main()
