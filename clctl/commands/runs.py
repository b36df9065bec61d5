"""clctl runs: what lies in a folder of runs, which is best, and what may go."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from clctl.commands import _runs_best, _runs_clean, _runs_show
from clctl.commands._report_read import read
from clctl.commands._runs_best import Group, Scored
from clctl.commands._runs_clean import Doomed
from clctl.commands._runs_read import Row, folders, row, rows
from clctl.console import Exit, Problem, Talk
from clctl.data.entries import in_words
from clctl.report.document import Report, percent

HEADS = ("name", "state", "method", "encoder", "data", "steps", "top-1", "size", "begun (UTC)")


@dataclass(frozen=True)
class Best:
    """What was typed for `best`."""

    folder: Path
    metric: str = "top1"


@dataclass(frozen=True)
class Clean:
    """What was typed for `clean`."""

    folder: Path
    yes: bool = False


def ls(folder: Path) -> Report:
    """All runs, the one begun last first.

    Raises:
        Problem: Exit.USAGE if there is no such folder.
    """
    found = rows(folder)
    cells = [HEADS, *map(_cells, found)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    lines = [
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    total = sum(r.bytes for r in found)
    count = f"{len(found)} run{'' if len(found) == 1 else 's'}, {in_words(total)} in {folder}"
    text = "\n".join([*lines, count]) if found else f"no runs in {folder}"
    document: dict[str, Any] = {
        "schema": "clctl/runs/1",
        "folder": str(folder),
        "bytes": total,
        "runs": [_plain(r) for r in found],
    }
    return Report(document, text, "\n".join(str(r.path) for r in found))


def show(folder: Path) -> Report:
    """All of one run.

    Raises:
        Problem: Exit.CHECKPOINT if it is no run.
    """
    seen, one = read(folder), row(folder)
    more = _runs_show.document(one, seen)
    document = {"schema": "clctl/runs-show/1", **_plain(one), **more}
    return Report(document, _runs_show.text(one, more), str(folder))


def best(order: Best, talk: Talk) -> Report:
    """The best run by one metric, among those that were scored on the same images in the same way.

    Raises:
        Problem: Exit.CHECKPOINT if no run has that metric; Exit.USAGE if runs were scored on other
            data equally often, so that nothing says which is meant.
    """
    runs = folders(order.folder)
    found = _runs_best.groups(runs, order.metric)
    if not found:
        known = ", ".join(_runs_best.metrics(runs))
        raise Problem(
            f"no run in {order.folder} has an evaluation with {order.metric}",
            Exit.CHECKPOINT,
            "runs.not-scored",
            f"they have: {known}" if known else "score them: clctl knn-eval RUN",
        )
    first = found[0]
    rivals = [g for g in found if len(g.runs) == len(first.runs)]
    others = {
        g.data for g in rivals if (g.fingerprint, g.images) != (first.fingerprint, first.images)
    }
    if others:
        raise Problem(
            f"the runs in {order.folder} were scored on different data equally often: "
            + ", ".join(sorted({first.data, *others})),
            Exit.USAGE,
            "runs.mixed",
            "keep the runs of each data in a folder of its own, and name that",
        )
    winner = first.runs[0]
    lines = [_sentence(first, order.metric), *_runner_up(first, order.metric)]
    lines += [f"not compared with that: {_sentence(g, order.metric)}" for g in found[1:]]
    document: dict[str, Any] = {
        "schema": "clctl/runs-best/1",
        "metric": order.metric,
        "best": str(winner.path),
        "groups": [_runs_best.document(group) for group in found],
    }
    if len(found) > 1:
        talk.say(f"scores of {len(found)} kinds; taken is the one that most runs have")
    return Report(document, "\n".join(lines), str(winner.path))


def clean(order: Clean, talk: Talk) -> Report:
    """Remove what is of no more use, once someone agreed.

    Raises:
        Problem: Exit.USAGE if nobody agreed; if something may not be removed.
    """
    found = [one for path in folders(order.folder) if (one := _runs_clean.doomed(path))]
    if not found:
        document = _cleaned(order, found, {}, [])
        return Report(document, f"nothing in {order.folder} may go", "0")
    if not order.yes and not _agreed(found, talk):
        return Report(_cleaned(order, found, {}, []), "nothing was removed", "0")
    freed, left = dict[Path, int](), list[str]()
    for one in found:
        try:
            freed[one.run] = _runs_clean.remove(one)
        except Problem as problem:
            if problem.exit != Exit.EXISTS:
                raise
            left.append(f"left alone: {problem.message}")
    lines = [
        f"{one.run}: {one.why}, {in_words(freed[one.run])}" for one in found if one.run in freed
    ]
    total = sum(freed.values())
    lines += [*left, f"{in_words(total)} freed"]
    return Report(_cleaned(order, found, freed, left), "\n".join(lines), str(total))


def _agreed(found: Sequence[Doomed], talk: Talk) -> bool:
    """Whether a person at the terminal says yes."""
    lines = [f"  {one.run}: {one.why}, {in_words(one.bytes)}" for one in found]
    what = f"{in_words(sum(one.bytes for one in found))} of {len(found)} run"
    what += "" if len(found) == 1 else "s"
    if not talk.quiet:
        talk.say("\n".join(lines))
    if talk.quiet or not sys.stdin.isatty():
        raise Problem(
            f"{what} would be removed, and there is nobody to ask",
            Exit.USAGE,
            "runs.not-agreed",
            "add --yes",
        )
    talk.say(f"remove {what}? It is gone for good. [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _cleaned(
    order: Clean, found: Sequence[Doomed], freed: dict[Path, int], left: Sequence[str]
) -> dict[str, Any]:
    return {
        "schema": "clctl/runs-clean/1",
        "folder": str(order.folder),
        "could_go": [
            {"run": str(d.run), "paths": [str(p) for p in d.paths], "why": d.why, "bytes": d.bytes}
            for d in found
        ],
        "freed": {str(path): count for path, count in freed.items()},
        "left": list(left),
        "bytes": sum(freed.values()),
    }


def _cells(one: Row) -> tuple[str, ...]:
    score = "" if one.top1 is None else percent(one.top1)
    if one.interval is not None:
        score += f" [{100 * one.interval[0]:.1f}, {100 * one.interval[1]:.1f}]"
    steps = "" if one.step is None else f"{one.step:,}"
    what = one.method, one.encoder, one.data, steps, score, in_words(one.bytes)
    return one.path.name, one.said, *what, f"{one.when:%Y-%m-%d %H:%M}"


def _plain(one: Row) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "name": one.path.absolute().name,
        "state": one.state,
        "why": one.why,
        "method": one.method,
        "encoder": one.encoder,
        "data": one.data,
        "seed": one.seed,
        "step": one.step,
        "total": one.total,
        "top1": one.top1,
        "top1_ci95": one.interval,
        "scored": one.scored,
        "bytes": one.bytes,
        "begun_utc": one.when.isoformat(timespec="seconds"),
    }


def _figure(scored: Scored) -> str:
    if scored.interval is None:
        return f"{scored.value:.4f}"
    low, high = scored.interval
    return f"{percent(scored.value)} (95 %: {percent(low)} to {percent(high)})"


def _sentence(group: Group, metric: str) -> str:
    one, many = group.runs[0], len(group.runs)
    of = "the only one scored so" if many == 1 else f"the best of {many}"
    return (
        f"{one.path}: {metric} {_figure(one)} on {group.images:,} images of {group.data}, {of} "
        f"[{group.protocol}]"
    )


def _runner_up(group: Group, metric: str) -> list[str]:
    if len(group.runs) < 2:
        return []
    best, next_ = group.runs[:2]
    found = [f"next: {next_.path}: {metric} {_figure(next_)}"]
    same = _runs_best.overlap(group)
    if same is not None:
        pair = f"clctl compare {quote(str(best.path))} {quote(str(next_.path))}"
        words = "overlap: it need not be better" if same else "do not overlap"
        found.append(f"their intervals {words}; image by image: {pair}")
    return found
