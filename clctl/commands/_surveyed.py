"""A folder or arrays looked at, picture by picture, with the splits and labels a run would find."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from clctl.console import Exit, Problem, Talk
from clctl.data.decode import Bad, Bounds, decode
from clctl.data.open import load
from clctl.data.scan import scan
from clctl.data.sources.folder import planned
from clctl.data.survey import Look, eight_bits, looks, of_pixels
from clctl.recipe.nodes import Node
from clctl.recipe.plugins import config
from clctl.recipe.read import point

_ANY_SIZE = 32  # px; sources that keep pictures whole do not ask for the views' size


@dataclass(frozen=True)
class Surveyed:
    """What was found; the lists run over the same N pictures, train's first.

    Attributes:
        source: `Config` of the source that reads them.
        name: For people.
        ids: Relative paths, or indices as text.
        splits: The split of each.
        labels: The label of each, or None.
        classes: Names of the labels, or None.
        labels_from: How labels were found, or why there are none.
        notes: What else the user should know.
        ignored: Files that are no pictures, by suffix.
        seen: A look at each, Bad where it cannot be decoded, None where a sample left it out.
        pixels: A picture as uint8 [h, w, C], reduced, by its row; None if it went away.
    """

    source: Any
    name: str
    ids: list[str]
    splits: list[str]
    labels: list[int | None]
    classes: tuple[str, ...] | None
    labels_from: str
    notes: list[str]
    ignored: dict[str, int]
    seen: list[Look | Bad | None]
    pixels: Callable[[int], np.ndarray | None]

    @property
    def looks(self) -> dict[int, Look]:
        """The pictures that were seen, by row."""
        return {row: each for row, each in enumerate(self.seen) if isinstance(each, Look)}

    @property
    def bad(self) -> dict[int, Bad]:
        """The files that cannot be decoded, by row."""
        return {row: each for row, each in enumerate(self.seen) if isinstance(each, Bad)}

    @property
    def pooled(self) -> bool:
        """Whether a run would set a part aside as test, as there are labels and no splits."""
        return self.classes is not None and set(self.splits) == {"train"}

    def counts(self) -> dict[str, Counter[int | None]]:
        """How many of each label, by split."""
        found = {split: Counter[int | None]() for split in dict.fromkeys(self.splits)}
        for split, label in zip(self.splits, self.labels, strict=True):
            found[split][label] += 1
        return found


def surveyed(path: str, talk: Talk, most: int | None = None) -> Surveyed:
    """Look at every picture of a folder, of arrays, or of a named source.

    Args:
        most: Look at no more than about this many, evenly spread.

    Raises:
        Problem: If there is nothing, or nothing that a run could read.
    """
    source = _source(path)
    found = _folder(source, talk, most) if source.name == "folder" else _other(source, talk, most)
    if not found.looks:
        row, bad = next(iter(found.bad.items()))
        raise Problem(
            f"none of {len(found.bad)} pictures in {path} can be decoded; "
            f"{found.ids[row]}: {bad.reason}",
            Exit.DATA,
            "data.bad-images",
            "give a folder with pictures that open elsewhere",
        )
    return found


def _source(path: str) -> Any:
    """The `Config` that --data PATH would make."""
    sections: dict[str, Node] = {}
    if problems := point(sections, path):
        raise problems[0]
    plain = sections["data"].plain()
    try:
        return config("clctl.data.sources", plain["name"]).model_validate(plain)
    except ValidationError as error:
        raise Problem(
            f"{path} alone does not say where the pictures are",
            Exit.USAGE,
            "usage.data",
            "give a folder, a .npz or a .safetensors",
        ) from error


def _folder(source: Any, talk: Talk, most: int | None) -> Surveyed:
    found = scan(source.path)
    plan = planned(source, [file.name for file in found.files])
    parts = [*plan.parts, plan.rest] if plan.rest else plan.parts
    rows = [row for part in parts for row in part.rows]
    files = [found.files[row] for row in rows]
    chosen = _spread(len(files), most)
    seen: list[Look | Bad | None] = [None] * len(files)
    with talk.task("looking at", len(chosen)) as tick:
        paths = [files[row].path for row in chosen]
        for count, (row, each) in enumerate(zip(chosen, looks(paths), strict=True), 1):
            seen[row] = each
            tick(count, "pictures")

    def pixels(row: int) -> np.ndarray | None:
        picture = decode(files[row].path, Bounds(128, 3.0))
        return None if isinstance(picture, Bad) else eight_bits(picture.pixels)

    return Surveyed(
        source,
        Path(source.path).resolve().name or "folder",
        [file.name for file in files],
        ["train" if part is plan.rest else part.split for part in parts for _ in part.rows],
        [label for part in parts for label in part.labels or [None] * len(part.rows)],
        plan.classes,
        plan.labels_from,
        plan.notes,
        found.others,
        seen,
        pixels,
    )


def _other(source: Any, talk: Talk, most: int | None) -> Surveyed:
    dataset = load(source, _ANY_SIZE, talk.say)
    parts = list(dataset.splits.values())
    places = [(part, at) for part in parts for at in range(len(part))]
    chosen = _spread(len(places), most)
    seen: list[Look | Bad | None] = [None] * len(places)

    def pixels(row: int) -> np.ndarray:
        part, at = places[row]
        height, width = part.images.sizes[at].tolist()
        return part.images.canvas[at, :, :height, :width].permute(1, 2, 0).numpy()

    with talk.task("looking at", len(chosen)) as tick:
        for count, row in enumerate(chosen, 1):
            seen[row] = of_pixels(pixels(row))
            tick(count, "pictures")
    return Surveyed(
        source,
        dataset.name,
        [part.ids[at] for part, at in places],
        [part.name for part, _ in places],
        [None if part.labels is None else int(part.labels[at]) for part, at in places],
        dataset.classes,
        dataset.labels_from,
        list(dataset.notes),
        {},
        seen,
        pixels,
    )


def _spread(count: int, most: int | None) -> list[int]:
    """All rows, or about `most` of them at even distances."""
    return list(range(0, count, 1 if most is None else max(1, -(-count // most))))
