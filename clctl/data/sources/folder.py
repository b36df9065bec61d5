"""A folder of pictures, nested in any way, with class folders and splits or without."""

import os
from bisect import bisect_left
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data import fingerprint
from clctl.data.cache import Store, decoded
from clctl.data.decode import Bounds
from clctl.data.depth import PERCENTILES, Window
from clctl.data.labels import labelled
from clctl.data.layout import Layout, Part, layout
from clctl.data.scan import File, scan
from clctl.data.split import SET_ASIDE, stratified
from clctl.data.words import shown
from clctl.images import DataSet, Images, Split
from clctl.recipe.section import Section, Share


class Config(Section):
    """`data:` section with `name: folder`.

    path: the folder; pictures are .jpg, .png, .webp, .bmp, .tif, .ppm, .pgm and .gif at any depth,
        and .heic with pip install 'clctl[heic]'.
    labels: auto takes the folders below the data (or below train/) as classes where every
        picture lies in one and they do not look like dates, albums or parts; folders takes them
        however they look, or stops; none does without; a .csv with the columns path and label
        labels pictures wherever they are.
    short_side: stored pictures are shrunk to this short side, null for twice the view's size
        (at most 256, but at least 8/7 of the view).
    max_aspect: longer pictures lose their ends.
    bad_images: stop at files that cannot be decoded and at rows of the .csv without a picture, or
        skip up to a share max_bad of them.
    verify: read every file at every start, to notice content that changed while size and time
        did not.
    """

    name: Literal["folder"] = "folder"
    path: str
    labels: Annotated[str, Field(pattern=r"^(auto|folders|none|.+\.[cC][sS][vV])$")] = "auto"
    short_side: Annotated[int, Field(ge=8)] | None = None
    max_aspect: Annotated[float, Field(ge=1)] = 1.5
    bad_images: Literal["stop", "skip"] = "stop"
    max_bad: Share = 0.05
    verify: bool = False


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The pictures of a folder, decoded through the image store.

    Raises:
        Problem: If there is no such folder or no picture in it, if pictures are bad, if class
            folders contradict each other, or if the store cannot be written.
    """
    found = scan(config.path, talk, but=(config.labels,))
    plan = planned(config, [file.name for file in found.files])
    notes = [*plan.notes, *found.remarks()]
    if plan.classes is not None and len(plan.parts) == 1:
        plan.parts, note = _split(plan.parts[0])
        notes.append(note)
    # The unlabelled rest beside train beside test: what is used together needs no copy.
    parts = [plan.rest, *plan.parts] if plan.rest else plan.parts
    files = [found.files[row] for part in parts for row in part.rows]
    bounds, origin = bounded(config, view_size), os.path.abspath(config.path)
    store = decoded(files, bounds, talk, origin, config.verify)
    if store.bad:
        notes.append(_judge(config, files, store))
    if store.window is not None:
        notes.append(_depth(store, store.window))
    if len(store.rows) < 2:
        raise Problem(
            f"{config.path} holds a single picture; there is nothing to compare it with",
            Exit.DATA,
            "data.too-few",
            "give a folder with more pictures",
        )
    splits, content, contents = _splits(parts, files, store)
    rest = splits.pop("unlabelled", None)
    return DataSet(
        name=Path(config.path).resolve().name or "folder",
        splits=splits,
        classes=plan.classes,
        fingerprint=fingerprint.of_set(content, plan.classes, store.window),
        labels_from=plan.labels_from,
        notes=tuple(notes),
        drawn=SET_ASIDE if SET_ASIDE in notes else None,
        pool=None if rest is None else _pool(rest, splits["train"], store),
        contents=contents,
    )


def bounded(config: Config, view_size: int) -> Bounds:
    """How large pictures are stored for views of this size."""
    side = config.short_side or max(min(2 * view_size, 256), ceil(8 * view_size / 7))
    return Bounds(side, config.max_aspect)


def planned(config: Config, names: list[str]) -> Layout:
    """Splits and labels of the pictures with these names, as `data.labels` has them.

    Raises:
        Problem: As `layout` and `labelled` do.
    """
    match config.labels:
        case "auto" | "folders" | "none" as mode:
            return layout(names, mode)
        case table:
            skip = config.bad_images == "skip"
            return labelled(names, config.path, Path(table), skip, config.max_bad)


def _depth(store: Store, window: Window) -> str:
    low, high = window
    pictures = "1 picture" if store.deep == 1 else f"{store.deep:,} pictures"
    return (
        f"{pictures} with more than 8 bits: the values {low:g} to {high:g} of all of them "
        f"({PERCENTILES[0]:g} to {PERCENTILES[1]:g} %) become 0 to 255"
    )


def _split(pool: Part) -> tuple[list[Part], str]:
    """Train and test from a labelled pool; rows are chosen before any picture is decoded."""
    assert pool.labels is not None
    rows, note = stratified(torch.tensor(pool.labels))
    parts = [
        Part(name, pool.folder, [pool.rows[i] for i in at], [pool.labels[i] for i in at])
        for name, at in ((name, at.tolist()) for name, at in rows.items())
    ]
    return parts, note or SET_ASIDE


def _judge(config: Config, files: list[File], store: Store) -> str:
    """A note on the pictures that are left out, where that is wanted and they are few."""
    count, share = len(store.bad), len(store.bad) / len(files)
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    named = "; ".join(f"{shown(files[row].name)}: {reason}" for row, reason in store.bad[:10])
    named += f"; and {count - 10} more" if count > 10 else ""
    if config.bad_images == "stop":
        raise Problem(
            f"{pictures} of {len(files)} in {config.path} cannot be decoded: {named}",
            Exit.DATA,
            "data.bad-images",
            "remove them, or leave them out with --set data.bad_images=skip",
        )
    if share > config.max_bad:
        raise Problem(
            f"{pictures} of {len(files)} in {config.path} cannot be decoded, a share of "
            f"{share:.3f}, and data.max_bad allows {config.max_bad}: {named}",
            Exit.DATA,
            "data.bad-images",
            "remove them, or raise data.max_bad",
        )
    return f"{pictures} of {len(files)} left out, as they cannot be decoded: {named}"


def _splits(
    parts: list[Part], files: list[File], store: Store
) -> tuple[
    dict[str, Split], dict[str, tuple[str, Tensor | None]], dict[str, tuple[list[str], bytes]]
]:
    """Each split is a stretch of the store's canvas, without a copy; its hash; its files."""
    splits: dict[str, Split] = {}
    content: dict[str, tuple[str, Tensor | None]] = {}
    contents: dict[str, tuple[list[str], bytes]] = {}
    first = 0
    for part in parts:
        low, high = (bisect_left(store.rows, first + n) for n in (0, len(part.rows)))
        rows = store.rows[low:high]
        if not rows:
            raise Problem(
                f"no picture of {part.folder or part.split}/ can be decoded",
                Exit.DATA,
                "data.bad-images",
                "mend or remove that folder",
            )
        ids = [files[row].name for row in rows]
        labels = None
        if part.labels is not None:
            labels = torch.tensor([part.labels[row - first] for row in rows])
        images = Images(store.images.canvas[low:high], store.images.sizes[low:high])
        splits[part.split] = Split(part.split, images, labels, ids)
        digests = store.digests[low:high]
        content[part.split] = (fingerprint.of_files(zip(ids, digests, strict=True)), labels)
        contents[part.split] = (ids, fingerprint.brief(digests))
        first += len(part.rows)
    return splits, content, contents


def _pool(rest: Split, train: Split, store: Store) -> Split:
    """The unlabelled rest and train, which lie side by side, as one without labels."""
    count = len(rest) + len(train)
    images = Images(store.images.canvas[:count], store.images.sizes[:count])
    return Split("train", images, None, [*rest.ids, *train.ids])
