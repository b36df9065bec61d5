"""Pictures with their features: of a checkpoint and its data, or of a file of features."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data.decode import Bad, Bounds, decode
from clctl.data.depth import scaled, window
from clctl.data.embeddings import Embeddings
from clctl.data.sources import folder
from clctl.data.spread import spread
from clctl.images import DataSet, Images, Split
from clctl.recipe.sections import Recipe

Look = Callable[[int], Tensor]
"""Row -> its picture, uint8 [C, H, W]."""


@dataclass(frozen=True)
class Album:
    """Rows of features and what is known of them.

    Attributes:
        name: In words, such as "digits test".
        features: float32 [N, D].
        ids: N names.
        labels: Names of the N classes, or None.
        look: Gives the pictures, None where there are none to show.
    """

    name: str
    features: Tensor
    ids: Sequence[str]
    labels: Sequence[str] | None
    look: Look | None


def of_split(name: str, split: Split, classes: Sequence[str] | None, features: Tensor) -> Album:
    """The album of one part of a data set."""
    labels: list[str] | None = None
    if split.labels is not None and classes is not None:
        labels = [str(classes[i]) for i in split.labels.tolist()]
    return Album(name, features, split.ids, labels, lambda row: picture(split, row))


def joined(name: str, parts: Sequence[Split], albums: Sequence[Album]) -> Album:
    """All as one; ids get their split's name in front where they would not be unique."""
    ids = [own for album in albums for own in album.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{part.name}/{own}" for part in parts for own in part.ids]
    known = [label for album in albums for label in album.labels or ()]
    labels = known if len(known) == len(ids) else None
    places = [(part, row) for part in parts for row in range(len(part))]
    features = torch.cat([album.features for album in albums])
    return Album(name, features, ids, labels, lambda row: picture(*places[row]))


def of_rows(name: str, found: Embeddings, rows: Tensor, dataset: DataSet | None) -> Album:
    """The album of some rows of a file of features; with the data, their pictures."""
    ids = [found.ids[i] for i in rows.tolist()]
    labels = None
    if found.labels is not None and found.classes is not None:
        labels = [found.classes[i] for i in found.labels[rows].tolist()]
    look = None if dataset is None else _by_id(ids, dataset)
    return Album(name, found.features[rows], ids, labels, look)


def files(paths: Sequence[Path], bounds: Bounds) -> list[Split]:
    """Each file as a part of its own, for sizes differ.

    Raises:
        Problem: Exit.DATA if one cannot be decoded.
    """
    return [_file(path, bounds) for path in paths]


def bounds(recipe: Recipe) -> Bounds:
    """How the recipe's data are stored, where they are files."""
    data = recipe.data if isinstance(recipe.data, folder.Config) else folder.Config(path=".")
    return folder.bounded(data, recipe.views.size)


def picture(split: Split, row: int) -> Tensor:
    """The picture at `row` without what fills its canvas, uint8 [C, H, W]."""
    height, width = split.images.sizes[row].tolist()
    return split.images.canvas[row, :, :height, :width]


def _file(path: Path, bounds: Bounds) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` judges size
        found = next(spread([str(path)], partial(decode, bounds=bounds)))
    if isinstance(found, Bad):
        raise Problem(
            f"{path} cannot be read as a picture: {found.reason}",
            Exit.DATA,
            "data.bad-images",
            "--query takes the files that data takes",
        )
    pixels = found.pixels
    if pixels.dtype != np.uint8:  # grey of more than 8 bits, which is stretched by itself here
        deep = window([(found.digest, pixels.ravel())])
        assert deep is not None
        pixels = scaled(pixels, deep)
    lines = torch.from_numpy(pixels.copy())[None]
    images = Images(lines.permute(0, 3, 1, 2), torch.tensor([lines.shape[1:3]]))
    return Split(path.name, images, None, [path.name])


def _by_id(ids: Sequence[str], dataset: DataSet) -> Look:
    """Pictures by their id, with the name of their split in front or not, as embed writes them."""
    places = {
        name: (split, row)
        for split in dataset.splits.values()
        for row, own in enumerate(split.ids)
        for name in (f"{split.name}/{own}", own)
    }

    def look(row: int) -> Tensor:
        if ids[row] not in places:
            raise Problem(
                f"{dataset.name} has no picture {ids[row]}, which the features name",
                Exit.DATA,
                "data.other-pictures",
                "give the --data that the features were made from",
            )
        return picture(*places[ids[row]])

    return look
