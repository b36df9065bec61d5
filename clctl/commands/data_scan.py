"""clctl data scan: what is in a folder of pictures or in arrays, before a night is spent on it."""

import io
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clctl.commands._recommended import GPU, LONG, PROCESSOR, block, recommended
from clctl.commands._scan_words import words
from clctl.commands._surveyed import Surveyed, surveyed
from clctl.console import Talk, dump
from clctl.data.duplicates import ALIKE, BITS_APART, Duplicates, duplicates
from clctl.report.document import Report
from clctl.report.sheet import Tile, sheet
from clctl.store import files

EDGES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)  # px, of short sides
TILES = 100
PER_CLASS = (100, 50, 20, 10, 5, 2, 1)  # so that classes begin at the edges of rows


@dataclass(frozen=True)
class Order:
    """What was typed. out: a .png for the contact sheet, or a folder for it and the JSON."""

    path: str
    out: Path | None = None


def data_scan(order: Order, talk: Talk) -> Report:
    """Look at every picture once; gives counts, findings and a recipe to begin with.

    Raises:
        Problem: If there is no data, or none that can be decoded, or `out` cannot be written.
    """
    found = surveyed(order.path, talk)
    looks = found.looks
    rows = list(looks)
    twins = duplicates([looks[row] for row in rows], rows, [found.splits[row] for row in rows])
    machine = GPU if torch.cuda.is_available() else PROCESSOR
    choices = recommended(found, machine)
    document: dict[str, Any] = {
        "schema": "clctl/data-scan/1",
        "path": order.path,
        "source": found.source.name,
        "pictures": len(looks),
        "bytes": sum(look.bytes for look in looks.values()),
        "labels_from": found.labels_from,
        "classes": found.classes,
        "splits": _splits(found),
        "notes": found.notes,
        **_looks(found),
        "bad": [{"id": found.ids[row], "reason": bad.reason} for row, bad in found.bad.items()],
        "ignored": found.ignored,
        "duplicates": _duplicates(found, twins),
        "machine": machine.name,
        "recommended": {
            key: {"value": choice.value, "reason": choice.reason} for key, choice in choices.items()
        },
        "sheet": None,
    }
    if order.out is not None:
        one = order.out.suffix.lower() == ".png"
        picture = order.out if one else order.out / "sheet.png"
        files.make(picture.absolute().parent)
        files.write(picture, _sheet(found))
        document["sheet"] = str(picture)
        if not one:
            files.write(order.out / "data-scan.json", (dump(document) + "\n").encode())
    lines = words(document, found.pooled, block(choices))
    return Report(document, "\n".join(lines), str(order.out or len(looks)))


def _splits(found: Surveyed) -> dict[str, Any]:
    """Pictures of each split, bad ones included, and of each of its classes."""
    splits: dict[str, Any] = {}
    for split, counts in found.counts().items():
        classes = None
        if found.classes is not None and None not in counts:
            classes = {name: counts[label] for label, name in enumerate(found.classes)}
        splits[split] = {"pictures": counts.total(), "classes": classes}
    return splits


def _looks(found: Surveyed) -> dict[str, Any]:
    """Sizes and kinds of the pictures that could be decoded."""
    looks = found.looks.values()
    ends = [0, *EDGES, None]
    steps = [
        {
            "from": low,
            "below": high,
            "pictures": sum(
                low <= look.short and (high is None or look.short < high) for look in looks
            ),
        }
        for low, high in pairwise(ends)
        if low is not None
    ]
    return {
        "width": _range([look.width for look in looks]),
        "height": _range([look.height for look in looks]),
        "short_side": {**_range([look.short for look in looks]), "histogram": steps},
        "aspect": {
            **_range([round(look.aspect, 3) for look in looks]),
            "longer_than_3_to_2": sum(look.aspect > LONG for look in looks),
        },
        "formats": _counted(look.format for look in looks),
        "modes": _counted(look.mode for look in looks),
        "channels": _counted(str(look.channels) for look in looks),
        "bits": _counted(str(look.bits) for look in looks),
        "colourless": sum(look.colourless for look in looks),
        "flat": [found.ids[row] for row, look in found.looks.items() if look.flat],
    }


def _range(values: list[Any]) -> dict[str, Any]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _duplicates(found: Surveyed, twins: Duplicates) -> dict[str, Any]:
    """Groups of both kinds by id, and what is shared between splits or classes."""

    def told(group: list[int]) -> dict[str, Any]:
        labels = {found.labels[row] for row in group}
        return {
            "ids": [found.ids[row] for row in group],
            "splits": list(dict.fromkeys(found.splits[row] for row in group)),
            "one_class": None if None in labels else len(labels) == 1,
        }

    return {
        "rule": {
            "exact": "the same bytes",
            "near": f"hashes at most {BITS_APART} of 63 bits apart, "
            f"correlation of 32x32 grey pixels at least {ALIKE}",
        },
        "exact": [told(group) for group in twins.exact],
        "near": [told(group) for group in twins.near],
        "across_splits": [
            {
                "split": each.split,
                "other": each.other,
                "exact": each.exact,
                "near": each.near,
                "pairs": [[found.ids[a], found.ids[b]] for a, b in each.named],
            }
            for each in twins.crossings
        ],
    }


def _sheet(found: Surveyed) -> bytes:
    """Up to 100 pictures of train, evenly spread, by class where there are classes."""
    train = [row for row in found.looks if found.splits[row] == "train"] or list(found.looks)
    groups: dict[int | None, list[int]] = {}
    for row in train:
        groups.setdefault(found.labels[row], []).append(row)
    shown = [groups[key] for key in _evenly(sorted(groups, key=lambda key: key or 0), TILES)]
    each = next(n for n in PER_CLASS if n * len(shown) <= TILES)
    tiles: list[Tile] = []
    for row in (row for group in shown for row in _evenly(group, each)):
        look, label = found.looks[row], found.labels[row]
        pixels = found.pixels(row)
        name = found.ids[row].rpartition("/")[2]
        if found.classes is not None and label is not None:
            texts = found.classes[label], f"{look.width}x{look.height} {name}"
        else:
            texts = name, f"{look.width}x{look.height}"
        if pixels is not None:
            tiles.append(Tile(pixels, *texts))
    title = f"{found.name}: {len(tiles)} of {len(train):,} pictures of {found.splits[train[0]]}"
    stream = io.BytesIO()
    sheet(tiles, title, stream)
    return stream.getvalue()


def _evenly(items: list[Any], most: int) -> list[Any]:
    """Up to `most` of the items, at even distances."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
