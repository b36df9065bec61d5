"""CIFAR-100: 60,000 colour pictures of 32 px in 100 classes; 50,000 train, 10,000 test.

Labels are the 100 fine ones; the binary version is read, as of `cifar10`.
Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from collections.abc import Callable
from typing import Literal

from torchvision.datasets.utils import download_and_extract_archive

from clctl.data import named
from clctl.images import DataSet
from clctl.recipe.section import Section

ARCHIVE = named.Archive(
    name="cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    size="169 MB",
    folder="cifar-100-binary",
    files=("train.bin", "test.bin", "fine_label_names.txt"),
)
MD5 = "03b5dce01913d631647c71ecec9e9cb8"


class Config(Section):
    """`data:` section with `name: cifar100`.

    root: the folder that holds cifar-100-binary/, null for datasets/ in clctl's cache.
    """

    name: Literal["cifar100"] = "cifar100"
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
    classes = named.names(folder / "fine_label_names.txt")
    parts: dict[str, named.Part] = {}
    for split in ("train", "test"):
        path = folder / f"{split}.bin"
        heads, bodies = named.records([path], 2, (3, 32, 32))  # coarse label, fine label
        parts[split] = named.labelled(path, named.canvas(bodies), heads[:, 1], classes)
    return named.dataset(config.name, "CIFAR-100", parts, classes)
