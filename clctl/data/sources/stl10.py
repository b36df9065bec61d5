"""STL-10: 105,000 colour pictures of 96 px to learn from, 5,000 of them in 10 classes; 8,000 test.

Pretraining reads the 100,000 unlabelled pictures and the 5,000 of train without their labels;
a method that learns from labels reads train alone. Evaluation learns from train, and is scored
on test.
Source: Coates, Ng and Lee 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature
Learning".
Differs: the ten folds of train are not used. Read here, as torchvision's reader hashes 3 GB for
each split at every start and holds the pictures twice.
"""

from collections.abc import Callable
from typing import Literal

from torchvision.datasets import STL10
from torchvision.datasets.utils import download_and_extract_archive

from clctl.data import named
from clctl.images import DataSet
from clctl.recipe.section import Section

ARCHIVE = named.Archive(
    name="stl10",
    url=STL10.url,
    size="2.6 GB",
    folder=STL10.base_folder,
    files=(
        *("unlabeled_X.bin", "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
        STL10.class_names_file,
    ),
)
SHAPE = (3, 96, 96)  # channel, column, row


class Config(Section):
    """`data:` section with `name: stl10`.

    root: the folder that holds stl10_binary/, null for datasets/ in clctl's cache.
    """

    name: Literal["stl10"] = "stl10"
    root: str | None = None


def fetch(config: Config, talk: Callable[[str], None]) -> None:
    """Download the set where it is not there."""
    named.fetch(
        ARCHIVE,
        config.root,
        lambda draft: download_and_extract_archive(ARCHIVE.url, draft, md5=STL10.tgz_md5),
        talk,
    )


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The pictures [N, 3, 96, 96] in splits "train" and "test", and the pool for pretraining.

    Raises:
        Problem: If a file is missing or damaged.
    """
    folder = named.folder(ARCHIVE, config.root)
    classes = named.names(folder / STL10.class_names_file)
    bodies = {
        part: named.records([folder / f"{part}_X.bin"], 0, SHAPE)[1].transpose(2, 3)
        for part in ("unlabeled", "train", "test")
    }
    free = len(bodies["unlabeled"])
    pool = named.canvas(bodies["unlabeled"], bodies["train"])
    parts: dict[str, named.Part] = {}
    for split, pictures in (("train", pool[free:]), ("test", named.canvas(bodies["test"]))):
        path = folder / f"{split}_y.bin"
        labels = named.records([path], 0, (1,))[1][:, 0] - 1  # they count from 1; 0 becomes 255
        parts[split] = named.labelled(path, pictures, labels, classes)
    note = (
        f"pretraining without labels reads {len(pool):,} pictures: {free:,} unlabelled ones "
        f"and the {len(pool) - free:,} of train"
    )
    return named.dataset(config.name, "STL-10", parts, classes, (note,), pool)
