"""Labels from a table: a .csv with the columns `path` and `label`, laid over a folder's pictures.

A path counts from the pictures' folder or, where that leads to no picture, from the table's own.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clctl.console import Exit, Problem
from clctl.data.layout import Layout, Part, split_folders
from clctl.data.words import few, span

COLUMNS = ("path", "label")
_NONE = "--set data.labels=none to train without labels"


@dataclass(frozen=True)
class Row:
    """A row of the table: its line, counted from 1, and its two cells; an empty label is none."""

    line: int
    path: str
    label: str


def read(table: Path) -> list[Row]:
    """The rows of a table: UTF-8 (a byte order mark may stand first), cells quoted as in RFC 4180.

    Other columns are passed over, and so are empty lines.

    Raises:
        Problem: If it cannot be read, or is no such table.
    """
    rows: list[Row] = []
    width, places = 0, (0, 0)
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                if not width:
                    width, places = len(cells), _columns(cells, table, lines.line_num)
                    continue
                if len(cells) != width:
                    raise _malformed(
                        table,
                        lines.line_num,
                        f"has {len(cells)} cells, and the header {width}",
                        'a cell that holds a comma stands in quotes: "a, b.jpg",cat',
                    )
                path, label = (cells[place].strip() for place in places)
                rows.append(Row(lines.line_num, path, label))
    except OSError as error:
        raise Problem(
            f"the labels in {table} cannot be read: {error.strerror}",
            Exit.DATA,
            "data.labels-missing",
            "check data.labels; a relative path counts from the recipe's folder, or from here",
        ) from error
    except UnicodeDecodeError as error:
        raise _malformed(table, None, "is not UTF-8 text", "save it as CSV UTF-8") from error
    except csv.Error as error:
        line = lines.line_num  # pyright: ignore[reportPossiblyUnboundVariable]
        raise _malformed(table, line, f"is no CSV: {error}", "check the quotes there") from error
    return rows


def _columns(header: list[str], table: Path, line: int) -> tuple[int, int]:
    found = [cell.strip().lower() for cell in header]
    if any(found.count(name) != 1 for name in COLUMNS):
        raise _malformed(
            table,
            line,
            f"does not name the columns path and label once each (it is: {few(header)})",
            "let the first line be: path,label",
        )
    return found.index(COLUMNS[0]), found.index(COLUMNS[1])


def labelled(names: Sequence[str], folder: str, table: Path, skip: bool, most: float) -> Layout:
    """Splits as their folders tell, and labels as the table tells.

    Args:
        names: Of the pictures, below `folder`, with forward slashes.
        folder: That of the pictures.
        table: The .csv.
        skip: Leave out rows that lead to no picture, rather than refuse them.
        most: The largest share of such rows, 0 to 1.

    Raises:
        Problem: If the table is malformed, contradicts itself, leads to no picture, has a single
            class or labels nothing of train, or if a split holds a class that train does not.
    """
    rows = read(table)
    known, notes = _placed([row for row in rows if row.label], names, folder, table, skip, most)
    if bare := sum(not row.label for row in rows):
        notes.append(
            f"{_many(bare, 'row')} of {table.name} with an empty label count as unlabelled"
        )
    parts, more = split_folders(names)
    train = parts[0]
    present = [known[row] for row in train.rows if row in known]
    classes = tuple(sorted(set(present), key=_order))
    if len(classes) < 2:
        where = f"{train.folder}/" if train.folder else folder
        what = f"a single class ({classes[0]})" if classes else "no picture"
        raise Problem(
            f"{table} labels {what} of {where}: nothing to tell apart",
            Exit.DATA,
            "data.one-class",
            f"label pictures of two classes there, or {_NONE}",
        )
    number = {name: i for i, name in enumerate(classes)}
    unlabelled = [row for row in train.rows if row not in known]
    for part in parts:
        _label(part, known, number, table, more)
    if unlabelled:
        more.append(
            f"{_many(len(unlabelled), 'picture')} without a label: not scored, and trained on only "
            "by methods that need no labels"
        )
    counts = [present.count(name) for name in classes]
    words = (
        f"labels are those of {table.name}: {len(classes)} classes ({few(classes)}) of "
        f"{span(counts)}, {len(present):,} of {len(present) + len(unlabelled):,} labelled"
    )
    rest = Part("unlabelled", train.folder, unlabelled) if unlabelled else None
    return Layout(parts, classes, words, [*more, *notes], rest)


def _label(
    part: Part, known: dict[int, str], number: dict[str, int], table: Path, notes: list[str]
) -> None:
    """Give a part its labels and leave out its other pictures; one without any stays as it is."""
    rows = [row for row in part.rows if row in known]
    if not rows:
        notes.append(f"{table.name} labels nothing in {part.folder}/, so it gives no score")
        return
    unknown = sorted({known[row] for row in rows} - set(number))
    if unknown:
        raise Problem(
            f"{table} gives {part.folder}/ classes that train does not have: {few(unknown)} "
            f"(train has {few(list(number))})",
            Exit.DATA,
            "data.unknown-class",
            f"label pictures of the same classes in both, or {_NONE}",
        )
    if part.split != "train" and len(rows) < len(part.rows):
        notes.append(
            f"{_many(len(part.rows) - len(rows), 'picture')} in {part.folder}/ without a label "
            "left out"
        )
    part.rows, part.labels = rows, [number[known[row]] for row in rows]


def _placed(
    rows: list[Row], names: Sequence[str], folder: str, table: Path, skip: bool, most: float
) -> tuple[dict[int, str], list[str]]:
    """Labels by the picture's place in `names`, and notes."""
    place = {name: i for i, name in enumerate(names)}
    at: dict[int, Row] = {}
    lost: list[Row] = []
    twice = 0
    starts = (os.path.abspath(folder), os.path.dirname(os.path.abspath(table)))
    for row in rows:
        found = _picture(row.path, place, starts)
        if found is None:
            lost.append(row)
        elif found not in at:
            at[found] = row
        elif at[found].label == row.label:
            twice += 1
        else:
            first = at[found]
            raise _malformed(
                table,
                row.line,
                f"calls {row.path} {row.label!r}, and line {first.line} {first.label!r}",
                "leave one of the two",
            )
    notes = [_lost(lost, len(rows), folder, table, skip, most)] if lost else []
    if twice:
        notes.append(f"{_many(twice, 'row')} of {table.name} repeat another")
    return {found: row.label for found, row in at.items()}, notes


def _picture(path: str, place: dict[str, int], starts: tuple[str, str]) -> int | None:
    """Where a path leads; backslashes of another system are tried as slashes at last."""
    for text in (path, path.replace("\\", "/")):
        for start in starts:
            whole = os.path.normpath(os.path.join(start, text))
            below = whole.removeprefix(starts[0].rstrip("/") + "/")
            if below in place:
                return place[below]
    return None


def _lost(lost: list[Row], count: int, folder: str, table: Path, skip: bool, most: float) -> str:
    """A note on rows that lead to no picture, where that is wanted and they are few."""
    named = few([f"{row.path} (line {row.line})" for row in lost])
    said = f"{_many(len(lost), 'row')} of {count:,} in {table.name} without a picture in {folder}: "
    if skip and len(lost) <= most * count:
        return f"{said}{named}"
    limit = f"raise data.max_bad ({most})" if skip else "leave them out: --set data.bad_images=skip"
    raise Problem(
        f"{said}{named}",
        Exit.DATA,
        "data.labels-without-picture",
        f"paths count from the pictures' folder or from the table's; mend them, or {limit}",
    )


def _order(label: str) -> tuple[bool, int, str]:
    """Numbers by value, and before words."""
    number = label.isascii() and label.isdigit()
    return not number, int(label) if number and len(label) < 19 else 0, label


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _malformed(table: Path, line: int | None, message: str, suggestion: str) -> Problem:
    start = f"{table}" if line is None else f"line {line} of {table}"
    return Problem(
        f"{start} {message}",
        Exit.DATA,
        "data.labels-malformed",
        suggestion,
        file=str(table),
        line=line,
    )
