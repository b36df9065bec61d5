"""Fashion-MNIST: 70,000 grey pictures of 28 px in 10 classes; 60,000 train, 10,000 test.

Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from clctl.data import named
from clctl.images import DataSet
from clctl.recipe.section import Section

FILES = {"train": "train", "test": "t10k"}  # how their names begin
ARCHIVE = named.Archive(
    name="fashion_mnist",
    url=FashionMNIST.mirrors[0],
    size="31 MB",
    folder="FashionMNIST/raw",
    files=tuple(name.removesuffix(".gz") for name, _ in FashionMNIST.resources),
)


class Config(Section):
    """`data:` section with `name: fashion_mnist`.

    root: the folder that holds FashionMNIST/raw/, null for datasets/ in clctl's cache.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"
    root: str | None = None


def fetch(config: Config, talk: Callable[[str], None]) -> None:
    """Download the set where it is not there."""
    named.fetch(ARCHIVE, config.root, lambda draft: FashionMNIST(draft, download=True), talk)


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The pictures [N, 1, 28, 28] in splits "train" and "test".

    Raises:
        Problem: If a file is missing or damaged.
    """
    folder = named.folder(ARCHIVE, config.root)
    classes = tuple(FashionMNIST.classes)
    parts: dict[str, named.Part] = {}
    for split, begins in FILES.items():
        path = folder / f"{begins}-labels-idx1-ubyte"
        pictures = _read(read_image_file, folder / f"{begins}-images-idx3-ubyte")[:, None]
        labels = _read(read_label_file, path)
        parts[split] = named.labelled(path, named.canvas(pictures), labels, classes)
    return named.dataset(config.name, "Fashion-MNIST", parts, classes)


def _read(reader: Callable[[str], Tensor], path: Path) -> Tensor:
    try:
        found = reader(str(path))
    except (OSError, ValueError, TypeError, RuntimeError, LookupError, AssertionError) as error:
        # what torchvision raises on files that are cut short or something else
        raise named.damaged(path, "cannot be read as an idx file") from error
    if found.numel() == 0:
        raise named.damaged(path, "is empty")
    return found
