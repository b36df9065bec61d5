"""Images from one .npz or .safetensors file, or from a folder that holds train.npz and more."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data import fingerprint
from clctl.data.arrayfile import SUFFIXES, Arrays, problem, read
from clctl.data.layout import few
from clctl.data.split import SET_ASIDE, part
from clctl.images import DataSet, Images, Split
from clctl.recipe.section import Section


class Config(Section):
    """`data:` section with `name: arrays`.

    path: a .npz or .safetensors file with images (uint8 [N, H, W, C] or [N, H, W]) and, if you
        like, labels ([N], whole numbers) and classes; or a folder with train.npz and, if you
        like, val.npz and test.npz. In .safetensors, classes is a JSON list in the metadata.
    """

    name: Literal["arrays"] = "arrays"
    path: str


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The images of one file, split if labelled, or of train, val and test files.

    Raises:
        Problem: If a file is missing, damaged or malformed, or the files do not fit together.
    """
    files = _files(Path(config.path))
    found = {name: read(path) for name, path in files.items()}
    if len(found["train"].images) < 2:
        raise problem(files["train"], "holds a single image", "data.too-few")
    channels = {arrays.images.shape[3] for arrays in found.values()}
    if len(channels) > 1:
        raise Problem(
            f"the files in {config.path} do not fit together: some are grey, some have 3 channels",
            Exit.DATA,
            "data.wrong-images",
            "save all of them with the same number of channels",
        )
    classes, labels, notes = _labels(files, found)
    splits: dict[str, Split] = {}
    content: dict[str, tuple[str, Tensor | None]] = {}
    for name, arrays in found.items():
        count, height, width, _ = arrays.images.shape
        sizes = torch.tensor([height, width]).expand(count, 2)
        images = Images(arrays.images.permute(0, 3, 1, 2), sizes)
        splits[name] = Split(name, images, labels[name], [str(i) for i in range(count)])
        content[name] = (fingerprint.of_pixels(images.canvas), labels[name])
    if classes is not None and len(splits) == 1:
        splits, note = part(splits["train"])
        notes.append(note or SET_ASIDE)
    words = f"no labels: {files['train'].name} has no array called labels"
    if classes is not None:
        words = (
            f"labels are those of {files['train'].name}: {len(classes)} classes ({few(classes)})"
        )
    return DataSet(
        name=Path(config.path).resolve().stem,
        splits=splits,
        classes=classes,
        fingerprint=fingerprint.of_set(content, classes),
        labels_from=words,
        notes=tuple(notes),
        drawn=SET_ASIDE if SET_ASIDE in notes else None,
    )


def _files(path: Path) -> dict[str, Path]:
    if not path.exists():
        raise Problem(f"there is no {path}", Exit.DATA, "data.missing", "check data.path or --data")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise problem(path, "is neither .npz nor .safetensors", "data.wrong-suffix")
        return {"train": path}
    files: dict[str, Path] = {}
    for name in ("train", "val", "test"):
        there = [
            path / (name + suffix) for suffix in SUFFIXES if (path / (name + suffix)).is_file()
        ]
        if len(there) > 1:
            raise problem(
                path,
                f"holds both {there[0].name} and {there[1].name}",
                "data.two-splits",
                "keep one",
            )
        files |= dict.fromkeys([name], there[0]) if there else {}
    if "train" not in files:
        raise problem(
            path,
            "holds neither train.npz nor train.safetensors",
            "data.missing",
            "for a folder of pictures use --set data.name=folder",
        )
    return files


def _labels(
    files: dict[str, Path], found: dict[str, Arrays]
) -> tuple[tuple[str, ...] | None, dict[str, Tensor | None], list[str]]:
    """Class names and labels 0 to K-1 of each split."""
    train = found["train"]
    numbers: dict[str, Tensor | None] = dict.fromkeys(found)
    if train.labels is None:
        bare = [path.name for name, path in files.items() if found[name].labels is not None]
        return None, numbers, [f"labels of {name} are not used: train has none" for name in bare]
    classes = train.classes
    values = np.unique(train.labels) if classes is None else np.arange(len(classes))
    notes: list[str] = []
    for name, arrays in found.items():
        if arrays.classes not in (None, classes):
            raise problem(
                files[name], f"names other classes than {files['train'].name}", "data.wrong-classes"
            )
        if arrays.labels is None:
            notes.append(f"{files[name].name} has no labels and gives no score")
            continue
        places = np.searchsorted(values, arrays.labels).clip(max=len(values) - 1)
        wrong = arrays.labels[values[places] != arrays.labels]
        if len(wrong):
            known = f"0 to {len(values) - 1}" if classes else f"those of {files['train'].name}"
            raise problem(
                files[name],
                f"has {len(wrong)} labels outside of {known}, such as {wrong[0]}",
                "data.wrong-labels",
                "labels number the classes from 0; every class of val and test is one of train's",
            )
        numbers[name] = torch.from_numpy(places)
    return classes or tuple(str(value) for value in values), numbers, notes
