"""A file of features in place of a checkpoint, as a Bench."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from clctl.commands._scoring import Bench, Material, Part
from clctl.console import Exit, Problem, Talk
from clctl.data.embeddings import SPLITS, SUFFIXES, Embeddings, read
from clctl.data.open import Names, chosen
from clctl.evaluate.overlap import Overlap, of_rows, overlap
from clctl.store import reference, tensors


def is_features(path: str) -> bool:
    """Whether this names a file of features rather than a checkpoint."""
    file = Path(path)
    if file.suffix not in SUFFIXES or not file.is_file():
        return False
    # A checkpoint may be a .safetensors file too: it says so in its metadata.
    return file.suffix != ".safetensors" or reference.KEY not in tensors.header(file).metadata


def bench(
    path: str, other: str | None, split: str | None, device: torch.device, talk: Talk
) -> Bench:
    """The bench of a file of features.

    Args:
        other: A second file: then the first is learned from, and this one scored.
        split: As for pictures, where the file names splits.

    Raises:
        Problem: If there are no labels, or the two files do not fit together.
    """
    first = read(Path(path))
    found = first if other is None else _both(first, read(Path(other)), path, other)
    labels, classes = found.labels, found.classes
    if labels is None or classes is None:
        raise Problem(
            f"{path} has no labels to score against",
            Exit.DATA,
            "data.no-labels",
            "save an array called labels beside features; clctl diagnose needs none",
        )
    data = Path(path if other is None else other).stem
    rows = _rows(found)
    names = chosen(data, list(rows), split) if "train" in rows else _itself(data, rows, split)

    def part(names: tuple[str, ...]) -> tuple[Part, Tensor]:
        at = torch.cat([rows[name] for name in names])
        label = names[0] if len(names) == 1 else "all"
        return Part(label, labels[at], [found.ids[i] for i in at]), found.features[at]

    train, choose, test = (
        None if wanted is None else part(wanted)
        for wanted in (_one(names.train), _one(names.choose), names.test)
    )
    assert test is not None
    material = Material(train and train[1], choose and choose[1], test[1])
    return Bench(
        data=data,
        classes=classes,
        train=train and train[0],
        choose=choose and choose[0],
        test=test[0],
        protocol=names.protocol,
        facts={
            "fingerprint": found.sha256,
            "labels_from": f"the labels of {Path(path).name}",
            "pixels_size": None,
        },
        materials={"trained": lambda: material},
        overlap=cache(_twins(train, test)),
        device=device,
        talk=talk,
    )


def _one(name: str | None) -> tuple[str, ...] | None:
    return None if name is None else (name,)


def _twins(train: tuple[Part, Tensor] | None, test: tuple[Part, Tensor]) -> Callable[[], Overlap]:
    known = None if train is None else of_rows(train[1])
    ids = () if train is None else train[0].ids
    return lambda: overlap(known, of_rows(test[1]), ids, test[0].ids)


def _itself(data: str, rows: dict[str, Tensor], split: str | None) -> Names:
    """A file without a train part: each sample is judged by the others."""
    if split not in (None, "all", *rows):
        raise Problem(
            f"{data} has no split {split!r}; it has {', '.join(rows)}",
            Exit.DATA,
            "data.no-such-split",
            "leave --split out",
        )
    return Names(
        None, None, (split,) if split in rows else tuple(rows), "all samples on themselves"
    )


def _rows(found: Embeddings) -> dict[str, Tensor]:
    """The rows of each split; a file without splits is all one."""
    if found.splits is None:
        return {"all": torch.arange(len(found.ids))}
    places = {name: [i for i, s in enumerate(found.splits) if s == name] for name in SPLITS}
    return {name: torch.tensor(at) for name, at in places.items() if at}


def _both(first: Embeddings, second: Embeddings, path: str, other: str) -> Embeddings:
    """Two files as train and test."""
    if first.features.shape[1] != second.features.shape[1]:
        raise Problem(
            f"{other} has features of {second.features.shape[1]} numbers, "
            f"{path} of {first.features.shape[1]}",
            Exit.DATA,
            "data.wrong-features",
            "embed both with the same checkpoint",
        )
    if first.labels is None or second.labels is None or first.classes is None:
        raise Problem(
            f"{path if first.labels is None else other} has no labels to score against",
            Exit.DATA,
            "data.no-labels",
            "save an array called labels beside features",
        )
    unknown = set(second.classes or ()) - set(first.classes)
    if unknown:
        raise Problem(
            f"{other} has classes that {path} does not: {', '.join(sorted(unknown)[:5])}",
            Exit.DATA,
            "data.unknown-class",
            "give both the same classes",
        )
    number = torch.tensor([first.classes.index(name) for name in second.classes or ()])
    splits = ("train",) * len(first.ids) + ("test",) * len(second.ids)
    return Embeddings(
        features=torch.cat([first.features, second.features]),
        labels=torch.cat([first.labels, number[second.labels]]),
        ids=first.ids + second.ids,
        splits=splits,
        classes=first.classes,
        sha256=second.sha256,
    )
