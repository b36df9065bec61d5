"""clctl list: what there is to choose from, read from the files without importing them."""

import difflib
from typing import Any

from clctl.console import Exit, Problem
from clctl.recipe.plugins import known, summary
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
        rows = [{"name": name, "summary": _card(path)} for name, path in packaged().items()]
    else:
        files = known(PACKAGES[what])
        rows = [{"name": name, "summary": summary(path)} for name, path in files.items()]
    document: dict[str, Any] = {"schema": "clctl/list/1", what: rows}
    width = max((len(row["name"]) for row in rows), default=0)
    text = "\n".join(f"{row['name']:<{width}}  {row['summary']}" for row in rows)
    return Report(document, text, "\n".join(row["name"] for row in rows))


def _card(path: Any) -> str:
    """The first line of a recipe's experiment card."""
    first = path.read_text("utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip()
