"""From a recipe's data section to a data set, and from a data set to what an evaluation needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.images import DataSet, Images, Split


def load(
    config: Any, view_size: int, talk: Callable[[str], None], download: bool = False
) -> DataSet:
    """The data set of a `data:` section.

    Args:
        config: The `Config` of a source.
        view_size: Side of the views in pixels; a source need not keep much more.
        talk: Takes lines for people.
        download: Whether a source that can `fetch` what is not there may do so.

    Raises:
        Problem: If the data is missing, damaged or malformed.
    """
    source = import_module(f"clctl.data.sources.{config.name}")
    if download and hasattr(source, "fetch"):
        source.fetch(config, talk)
    return source.load(config, view_size, talk)


@dataclass(frozen=True)
class Trial:
    """What an evaluation learns from, and what it is scored on. All parts have labels.

    Attributes:
        train: Labelled neighbours or training data; None where `test` must serve as both, by
            leave-one-out or cross-validation.
        choose: Where hyper-parameters are chosen; None for a part of train.
        test: What is scored.
        protocol: The same in words.
    """

    train: Split | None
    choose: Split | None
    test: Split
    protocol: str


@dataclass(frozen=True)
class Names:
    """Which splits serve as what: the fields of `Trial`, by name; `test` may take several."""

    train: str | None
    choose: str | None
    test: tuple[str, ...]
    protocol: str


def chosen(data: str, labelled: Sequence[str], split: str | None) -> Names:
    """The splits that an evaluation of `split` uses; None stands for test, else val, else all.

    Args:
        data: What problems call the data.
        labelled: Names of the splits that have labels; train is one of them.

    Raises:
        Problem: If the data has not this split.
    """
    val = "val" if "val" in labelled else None
    known = [*labelled, "all"]
    if split not in (None, "test", *known):
        raise Problem(
            f"{data} has no labelled split {split!r}; it has {', '.join(known)}",
            Exit.DATA,
            "data.no-such-split",
            f"--split {known[-2]}",
        )
    if split == "train":
        return Names(None, None, ("train",), "train on itself")
    if split in (None, "test") and "test" in labelled:
        words = "train to test" if val is None else "train to test, choices made on val"
        return Names("train", val, ("test",), words)
    if split in (None, "test", "val") and val is not None:
        return Names("train", None, (val,), "train to val")
    if split == "test":
        raise Problem(
            f"{data} has neither a test nor a val split with labels",
            Exit.DATA,
            "data.no-such-split",
            "--split all",
        )
    return Names(None, None, tuple(labelled), "all samples on themselves")


def trial(dataset: DataSet, split: str | None) -> Trial:
    """The parts that an evaluation of `split` uses: see `chosen`.

    Raises:
        Problem: If the data has no labels, or not this split.
    """
    labelled = {n: part for n, part in dataset.splits.items() if part.labels is not None}
    if "train" not in labelled:
        raise Problem(
            f"{dataset.name} has no labels to score against ({dataset.labels_from})",
            Exit.DATA,
            "data.no-labels",
            "give labelled data with --data, such as a folder with one folder per class",
        )
    names = chosen(dataset.name, list(labelled), split)
    train, choose = (None if n is None else labelled[n] for n in (names.train, names.choose))
    return Trial(train, choose, _joined([labelled[n] for n in names.test]), names.protocol)


def _joined(parts: list[Split]) -> Split:
    """All parts as one; ids get their split's name in front where they would not be unique."""
    if len(parts) == 1:
        return parts[0]
    images = _neighbours(parts) or _copied(parts)
    labels: list[Tensor] = [part.labels for part in parts if part.labels is not None]
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{part.name}/{name}" for part in parts for name in part.ids]
    return Split("all", images, torch.cat(labels), ids)


def _neighbours(parts: list[Split]) -> Images | None:
    """The parts as one without a copy, where they lie one after the other in one store."""
    first = parts[0].images.canvas
    offset = first.storage_offset()
    for canvas in (part.images.canvas for part in parts):
        same = canvas.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or canvas.stride() != first.stride() or canvas.storage_offset() != offset:
            return None
        offset += len(canvas) * canvas.stride(0)
    count = sum(len(part) for part in parts)
    canvas = first.as_strided((count, *first.shape[1:]), first.stride())
    return Images(canvas, torch.cat([part.images.sizes for part in parts]))


def _copied(parts: list[Split]) -> Images:
    canvases = [part.images.canvas.permute(0, 2, 3, 1) for part in parts]
    count = sum(len(canvas) for canvas in canvases)
    height, width = (max(canvas.shape[side] for canvas in canvases) for side in (1, 2))
    lines = torch.zeros(count, height, width, canvases[0].shape[3], dtype=torch.uint8)
    first = 0
    for canvas in canvases:
        lines[first : first + len(canvas), : canvas.shape[1], : canvas.shape[2]] = canvas
        first += len(canvas)
    return Images(lines.permute(0, 3, 1, 2), torch.cat([part.images.sizes for part in parts]))
