"""clctl neighbors: which pictures an encoder takes for alike; with or without labels."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clctl.commands import _features, _setup
from clctl.commands._album import Album
from clctl.commands._search import Order, Search, draw, of_checkpoint, of_features
from clctl.console import Exit, Problem, Talk
from clctl.data.words import shown
from clctl.evaluate.knn import nearest
from clctl.report import gallery
from clctl.report.document import Report, percent
from clctl.store import files

NEAREST = 8
TOLD = 3  # neighbours in a line of text
SUFFIXES = {".png": gallery.png, ".html": gallery.page}


def neighbors(order: Order, talk: Talk) -> Report:
    """Look for the pictures nearest to a fixed draw, or to the files of --query.

    Raises:
        Problem: Among others, if the gallery's suffix is not known, or it has no pictures to show.
    """
    if order.out is not None and order.out.suffix not in SUFFIXES:
        raise Problem(
            f"{order.out} does not end in {' or '.join(SUFFIXES)}",
            Exit.USAGE,
            "usage.suffix",
            f"-o {order.out.with_suffix('.html')}",
        )
    of_file = _features.is_features(order.subject)
    search, source = of_features(order, talk) if of_file else of_checkpoint(order, talk)
    talk.say(f"neighbors: {search.title}")
    similarity, index = _found(search, _setup.machine(order.device).device)
    if order.out is not None:
        _write(order.out, search, similarity, index)
    queries = [
        {
            "id": search.queries.ids[row],
            "class": _label(search.queries, row),
            "neighbors": [
                {"id": search.bank.ids[at], "class": _label(search.bank, at), "similarity": value}
                for value, at in zip(values, places, strict=True)
            ],
        }
        for row, values, places in zip(
            search.asked.tolist(), similarity.tolist(), index.tolist(), strict=True
        )
    ]
    document = {
        "schema": "clctl/neighbors/1",
        "queries": queries,
        "of": search.queries.name,
        "among": {"name": search.bank.name, "pictures": len(search.bank.ids)},
        "itself_left_out": search.alone,
        "same_class": _same(queries),
        "gallery": None if order.out is None else str(order.out),
        "source": source,
    }
    short = str(order.out) if order.out else " ".join(q["neighbors"][0]["id"] for q in queries)
    return Report(document, _text(search, document), short)


def drawn(bank: Album, queries: Album | None, out: Path, device: torch.device) -> None:
    """Write the gallery of a fixed draw of pictures and of the nearest to them.

    Args:
        queries: What the draw is made from; None: the bank itself, and none finds itself.
    """
    asked = bank if queries is None else queries
    search = Search(bank, asked, draw(len(asked.ids)), alone=queries is None)
    _write(out, search, *_found(search, device))


def _found(search: Search, device: torch.device) -> tuple[Tensor, Tensor]:
    """Similarity and row of the bank, each [Q, NEAREST]."""
    queries = search.queries.features[search.asked]
    own = search.asked if search.alone else None
    try:
        return nearest(search.bank.features, queries, NEAREST, device, own=own)
    except ValueError as error:
        raise Problem(
            f"nothing can be found in {search.bank.name}: {error}",
            Exit.DATA,
            "data.too-few",
            "give more pictures, or features of the same checkpoint",
        ) from error


def _write(out: Path, search: Search, similarity: Tensor, index: Tensor) -> None:
    """Draw the gallery and put it in its place."""
    rows = []
    for row, values, places in zip(
        search.asked.tolist(), similarity.tolist(), index.tolist(), strict=True
    ):
        query = _shown(search.queries, row)
        found = [
            _shown(search.bank, at, value, query.label)
            for value, at in zip(values, places, strict=True)
        ]
        rows.append([query, *found])
    files.make(out.absolute().parent)
    files.write(out, SUFFIXES[out.suffix](rows, search.title))


def _shown(
    album: Album, row: int, similarity: float | None = None, wanted: str | None = None
) -> gallery.Shown:
    assert album.look is not None
    label = _label(album, row)
    wrong = wanted is not None and label is not None and label != wanted
    return gallery.Shown(album.ids[row], label, album.look(row), similarity, wrong)


def _label(album: Album, row: int) -> str | None:
    return None if album.labels is None else album.labels[row]


def _same(queries: list[dict[str, Any]]) -> float | None:
    """Share of the neighbours that are of their query's class, where classes are known."""
    pairs = [(q["class"], n["class"]) for q in queries for n in q["neighbors"]]
    known = [a == b for a, b in pairs if a is not None and b is not None]
    return sum(known) / len(known) if known else None


def _text(search: Search, document: dict[str, Any]) -> str:
    lines = [search.title]
    for query in document["queries"]:
        near = query["neighbors"][:TOLD]
        words = [f"{shown(n['id'])}{_bracket(n)} {n['similarity']:.3f}" for n in near]
        lines.append(f"  {shown(query['id'])}{_bracket(query)}: {', '.join(words)}")
    if document["same_class"] is not None:
        count = sum(len(query["neighbors"]) for query in document["queries"])
        share = percent(document["same_class"])
        lines.append(f"  {share} of these {count} neighbours are of their query's class")
    if document["gallery"] is not None:
        lines.append(f"  gallery   {document['gallery']}")
    return "\n".join(lines)


def _bracket(one: dict[str, Any]) -> str:
    return "" if one["class"] is None else f" [{shown(one['class'])}]"
