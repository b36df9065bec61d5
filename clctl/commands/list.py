"""clctl list: what there is to choose from, read from the files without importing them."""

import difflib
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem
from clctl.recipe.plugins import card, known, summary
from clctl.recipe.read import packaged
from clctl.report.document import Report

PACKAGES = {
    "methods": "clctl.methods",
    "encoders": "clctl.encoders",
    "data": "clctl.data.sources",
}


def list_(what: str) -> Report:
    """Names and one line each.

    Raises:
        Problem: Exit.USAGE if there is no such list.
    """
    kinds = [*PACKAGES, "recipes"]
    if what not in kinds:
        near = difflib.get_close_matches(what, kinds, n=1)
        raise Problem(
            f"there is no list of {what}; there are {', '.join(kinds)}",
            Exit.USAGE,
            "usage.list",
            f"clctl list {near[0] if near else 'methods'}",
        )
    if what == "recipes":
        rows: list[dict[str, Any]] = [
            {"name": name, "summary": _card(path)} for name, path in packaged().items()
        ]
    else:
        files = known(PACKAGES[what])
        rows = [{"name": name, "summary": summary(path)} for name, path in files.items()]
        if what == "methods":
            rows = [row | _facts(files[row["name"]]) for row in rows]
    names = [row["name"] for row in rows]
    width = max(map(len, names), default=0)
    lines = [f"{row['name']:<{width}}  {row['summary']}" for row in rows]
    if what == "methods":
        lines = [line for row in rows for line in _words(row)]
    document: dict[str, Any] = {"schema": "clctl/list/1", what: rows}
    return Report(document, "\n".join(lines), "\n".join(names))


def _facts(path: Path) -> dict[str, Any]:
    """What a method is, from the card in its docstring."""
    said = card(path)
    return {
        "year": int(said["Year"]),
        "needs_negatives": said["Negatives"] != "none",
        "negatives": said["Negatives"],
        "needs_labels": said["Labels"] == "yes",
        "labels": said["Labels"],
        "views": said["Views"],
        "state": [] if said["State"] == "none" else said["State"].split(", "),
        "prevents_collapse": said["Against collapse"],
        "source": said["Source"],
    }


def _words(row: dict[str, Any]) -> list[str]:
    keeps = ", ".join(row["state"]) or "nothing"
    return [
        f"{row['name']} ({row['year']})  {row['summary'].partition(': ')[2]}",
        f"    views {row['views']}; labels {row['labels']}; keeps {keeps}",
        f"    negatives: {row['negatives']}; against collapse: {row['prevents_collapse']}",
    ]


def _card(path: Path) -> str:
    """The first line of a recipe's experiment card."""
    first = path.read_text("utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip()
