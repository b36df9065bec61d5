"""CIFAR-10: 60,000 colour pictures of 32 px in 10 classes; 50,000 train, 10,000 test.

The binary version is read, not the one for Python: that one is pickled, and clctl unpickles
nothing that lies about on a disk.
Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from collections.abc import Callable
from typing import Literal

from torchvision.datasets.utils import download_and_extract_archive

from clctl.data import named
from clctl.images import DataSet
from clctl.recipe.section import Section

TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
ARCHIVE = named.Archive(
    name="cifar10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size="170 MB",
    folder="cifar-10-batches-bin",
    files=(*TRAIN, "test_batch.bin", "batches.meta.txt"),
)
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


class Config(Section):
    """`data:` section with `name: cifar10`.

    root: the folder that holds cifar-10-batches-bin/, null for datasets/ in clctl's cache.
    """

    name: Literal["cifar10"] = "cifar10"
    root: str | None = None


def fetch(config: Config, talk: Callable[[str], None]) -> None:
    """Download the set where it is not there."""
    named.fetch(
        ARCHIVE,
        config.root,
        lambda draft: download_and_extract_archive(ARCHIVE.url, draft, md5=MD5),
        talk,
    )


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The pictures [N, 3, 32, 32] in splits "train" and "test".

    Raises:
        Problem: If a file is missing or damaged.
    """
    folder = named.folder(ARCHIVE, config.root)
    classes = named.names(folder / "batches.meta.txt")
    parts: dict[str, named.Part] = {}
    for split, files in (("train", TRAIN), ("test", ("test_batch.bin",))):
        heads, bodies = named.records([folder / name for name in files], 1, (3, 32, 32))
        pictures = named.canvas(bodies)
        parts[split] = named.labelled(folder / files[0], pictures, heads[:, 0], classes)
    return named.dataset(config.name, "CIFAR-10", parts, classes)
