"""Several runs on a report page: which is better on the same pictures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clctl.commands import compare
from clctl.commands._compared import sentence
from clctl.commands._predictions import Predictions, recorded
from clctl.commands._report_read import Seen
from clctl.console import Problem, Talk
from clctl.report.page.render import Table, Verdict, fragment, table
from clctl.report.section import Section

SLUG, TITLE, BY = "differences", "Which is better", "knn-eval"
LEAD = (
    "Two runs are compared on the same test pictures, one by one, which tells more than their scores side "
    "by side. A difference whose interval holds 0 may be chance."
)


def compared(runs: Sequence[Seen], talk: Talk) -> tuple[dict[str, Any] | None, Section]:
    """The document of clctl compare where it takes in all runs, and the section.

    Runs that were scored on other pictures are compared among themselves.
    """
    slug, _ = compare.JUDGES[BY]
    groups: list[list[Predictions]] = []
    lacking: dict[str, str] = {}
    for seen in runs:
        try:
            side = recorded(str(seen.folder), BY, slug, talk)
        except Problem as problem:
            lacking[seen.name] = problem.message
            continue
        if side is None:
            lacking[seen.name] = f"no predictions of {BY} are kept for it"
            continue
        group = next((g for g in groups if g[0].truth == side.truth), [])
        if not group:
            groups.append(group)
        group.append(replace(side, name=seen.name))
    documents = [compare.compared(group, BY) for group in groups if len(group) > 1]
    alone = [group[0].name for group in groups if len(group) == 1]
    notes = [f"{name}: {why}" for name, why in lacking.items()]
    if alone and len(runs) > len(alone):
        notes.append(f"no other run was scored on the pictures of {_listed(alone)}")
    why = "; ".join(notes) or "no two of them were scored on the same pictures"
    body = table(*map(_table, documents))
    if documents and notes:
        body += fragment("note.html", text=f"Left out: {why}.")
    found = Section(SLUG, TITLE, LEAD, body, None if documents else why)
    whole = len(documents) == 1 and len(documents[0]["models"]) == len(runs)
    return documents[0] if whole else None, found


def _table(document: dict[str, Any]) -> Table:
    rows = []
    for pair in document["differences"]:
        low, high = (100 * end for end in pair["ci95"])
        chance = "" if pair["p_value"] is None else f"{pair['p_value']:.2g}"
        better = "not sure which"
        if pair["significant"]:
            better = pair["b"] if pair["difference"] > 0 else pair["a"]
        rows.append(
            [
                f"{pair['b']} against {pair['a']}", better, f"{100 * pair['difference']:+.1f}",
                f"{low:+.1f} to {high:+.1f}", pair["over"], chance,
            ]
        )  # fmt: skip
    caption = f"Differences over {document['images']:,} test pictures, by {BY}"
    heads = ("pair", "better", "points", "95 % interval", "over", "p")
    return Table(caption, heads, rows, frozenset((2, 3, 5)))


def verdict(runs: Sequence[Seen], document: dict[str, Any] | None) -> Verdict:
    """Which run leads, and how sure that is."""
    if document is None:
        return Verdict(
            "unsure",
            "Not compared on the same pictures",
            "Each run has its own score below. Which of all is best cannot be said for sure, for their "
            "predictions of the same pictures are not all there.",
        )
    names = [m["name"] for m in document["models"]]
    best = max(document["models"], key=lambda m: m["top1"])["name"]
    beaten: list[str] = []
    for pair in document["differences"]:
        if pair["over"] == "images" and best in (pair["a"], pair["b"]) and pair["significant"]:
            beaten.append(pair["a"] if pair["b"] == best else pair["b"])
    level = [name for name in names if name != best and name not in beaten]
    if len(names) == 2:
        word = "No sure difference" if level else f"{best} is better"
        told = f"{sentence(document['differences'][0])} (95 % interval)"
        where = f"over the same {document['images']:,} test pictures, by {BY}"
        return Verdict("unsure" if level else "good", word, f"{told} {where}.")
    count = f"on the same {document['images']:,} test pictures"
    if not level:
        return Verdict(
            "good", f"{best} is best", f"It is surely better than {_listed(beaten)} {count}."
        )
    if not beaten:
        return Verdict(
            "unsure",
            "No sure difference",
            f"{best} is ahead, but {count} not surely of {_listed(level)}.",
        )
    return Verdict(
        "unsure",
        f"{best} is ahead",
        f"It is surely better than {_listed(beaten)} {count}, and not surely better than {_listed(level)}.",
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"
