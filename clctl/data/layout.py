"""Splits and classes as the folders' names tell them. Works on names alone."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from clctl.console import Exit, Problem
from clctl.data.plausible import doubt
from clctl.data.words import few, shown, span

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
Mode = Literal["auto", "folders", "none"]

_MEND = "--set data.labels=none to train without labels"
_FOLDERS = "training with --set data.labels=folders takes them"


@dataclass
class Part:
    """One split: its folder ("" for the whole), its rows of the list of names, their labels."""

    split: str
    folder: str
    rows: list[int]
    labels: list[int] | None = None


@dataclass
class Layout:
    """What was found, and in words how.

    Attributes:
        parts: Train first, then val and test where they exist.
        classes: Class names in the order of the labels, or None.
        labels_from: How labels were found, or why there are none.
        notes: What else the user should know.
        rest: Pictures of train without a label, beside those with one in `parts`.
    """

    parts: list[Part]
    classes: tuple[str, ...] | None
    labels_from: str
    notes: list[str] = field(default_factory=list)
    rest: Part | None = None


def layout(names: Sequence[str], mode: Mode) -> Layout:
    """Splits and labels of pictures with these names (relative, forward slashes).

    The topmost folder is the class, of whatever lies below it. With "auto" only folders that
    look like classes are taken for them (`plausible`).

    Raises:
        Problem: If labels="folders" cannot be had, two folders claim one split, or a split
            holds a class that train does not.
    """
    parts, notes = split_folders(names)
    if mode == "none":
        return Layout(parts, None, "labels are not used (data.labels is none)", notes)
    train = parts[0]
    tops = {part.split: [_top(names[row], part.folder) for row in part.rows] for part in parts}
    obstacle = _obstacle(train, tops["train"])
    if obstacle is not None:
        if mode == "folders":
            raise Problem(
                f"data.labels is folders, but {obstacle}", Exit.DATA, "data.no-class-folders", _MEND
            )
        return Layout(parts, None, f"no labels: {obstacle}", notes)
    counts = Counter(top for top in tops["train"] if top is not None)
    if mode == "auto" and (why := doubt(counts)) is not None:
        return Layout(parts, None, f"no labels: {why}; {_FOLDERS}", notes)
    classes = tuple(sorted(counts))
    notes += _nested([names[row] for row in train.rows], train.folder)
    number = {name: i for i, name in enumerate(classes)}
    for part in parts:
        reason = _foreign(part, tops[part.split], classes)
        if reason is None:
            part.labels = [number[top] for top in tops[part.split] if top is not None]
        elif mode == "folders":
            raise Problem(f"{reason}", Exit.DATA, "data.no-class-folders", _MEND)
        else:
            notes.append(f"{reason}, so it has no labels and gives no score")
    where = f"{train.folder}/" if train.folder else "the data's own folder"
    words = (
        f"labels are the folders in {where}: {len(classes)} classes ({few(classes)}) of "
        f"{span(counts.values())}; if they are no classes, train with --set data.labels=none"
    )
    return Layout(parts, classes, words, notes)


def split_folders(names: Sequence[str]) -> tuple[list[Part], list[str]]:
    """The parts that train/, val/ and test/ make, without labels, and notes on the rest.

    Raises:
        Problem: If two folders claim one split.
    """
    tops: dict[str | None, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        tops[_top(name, "")].append(row)
    folders: dict[str, str] = {}
    for top in tops:
        split = SPLITS.get((top or "").lower())
        if top is None or split is None:
            continue
        if split in folders:
            raise Problem(
                f"both {folders[split]}/ and {top}/ look like the {split} split",
                Exit.DATA,
                "data.two-splits",
                "rename or move one of them",
            )
        folders[split] = top
    whole = [Part("train", "", list(range(len(names))))]
    if "train" not in folders or _is_class(names, folders, tops):
        return whole, []
    order = [split for split in ("train", "val", "test") if split in folders]
    parts = [Part(split, folders[split], tops[folders[split]]) for split in order]
    left = len(names) - sum(len(part.rows) for part in parts)
    where = ", ".join(f"{part.folder}/" for part in parts)
    return parts, [f"{left} pictures outside of {where} are left out"] if left else []


def _is_class(
    names: Sequence[str], folders: dict[str, str], tops: dict[str | None, list[int]]
) -> bool:
    """True where train/ is a class called train (a vehicle), beside others of its kind."""
    strangers = [top for top in tops if top is not None and top not in folders.values()]
    train = folders["train"]
    flat = any(_top(names[row], train) is None for row in tops[train])
    return len(folders) == 1 and bool(strangers) and flat


def _obstacle(train: Part, tops: list[str | None]) -> str | None:
    where = f"{train.folder}/" if train.folder else "the data's own folder"
    loose = sum(top is None for top in tops)
    found = sorted({top for top in tops if top is not None})
    if loose:
        pictures = "1 picture lies" if loose == 1 else f"{loose} pictures lie"
        return f"{pictures} directly in {where}, outside of any class folder"
    if len(found) < 2:
        return f"{where} holds a single folder ({shown(found[0])})"
    if not train.folder and all(top.lower() in SPLITS for top in found):
        return f"the folders {few(found)} are splits, not classes, and there is no train/"
    return None


def _foreign(part: Part, tops: list[str | None], classes: tuple[str, ...]) -> str | None:
    """Why a split has no class folders, or None where it has.

    Raises:
        Problem: If it has class folders, and one is none of train's classes.
    """
    if None in tops:
        return f"{part.folder}/ has pictures outside of class folders"
    found = sorted({top for top in tops if top is not None})
    unknown = [top for top in found if top not in classes]
    if len(found) == 1 and unknown:
        return (
            f"{part.folder}/ holds a single folder ({shown(found[0])}), which is no class of train"
        )
    if unknown:
        raise Problem(
            f"{part.folder}/ holds classes that train does not: {few(unknown)} "
            f"(train has {few(classes)})",
            Exit.DATA,
            "data.unknown-class",
            f"give both the same class folders, or {_MEND}",
        )
    return None


def _nested(names: Sequence[str], folder: str) -> list[str]:
    """A note where a class is made of several folders, or of a folder beside pictures."""
    inside: dict[str, set[str | None]] = defaultdict(set)
    for place in {name.rpartition("/")[0] for name in names}:  # far fewer than pictures
        top, _, below = (place[len(folder) + 1 :] if folder else place).partition("/")
        if top:
            inside[top].add(below.partition("/")[0] or None)
    mixed = sorted(top for top, inner in inside.items() if len(inner) > 1)
    if not mixed:
        return []
    top = mixed[0]
    inner = min(name for name in inside[top] if name is not None)
    where = f" (such folders are in {len(mixed)} classes)" if len(mixed) > 1 else ""
    return [f"folders below a class belong to it: {shown(f'{top}/{inner}')} is {shown(top)}{where}"]


def _top(name: str, folder: str) -> str | None:
    """First folder of `name` below `folder`, or None where the picture lies directly in it."""
    below = name[len(folder) + 1 :] if folder else name
    top, slash, _ = below.partition("/")
    return top if slash else None
