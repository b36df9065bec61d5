"""The table of a sweep: a line for each recipe on each machine, over its seeds; for people, and as CSV."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from clctl.commands._sweep_row import Row, Score
from clctl.evaluate.intervals import mean_over_seeds, wilson

SCORES = ("knn", "knn_lightly", "linear")
MEASURED = ("rank_me", "seconds", "images_per_second")
SHARED = (
    *("method", "recipe", "year", "negatives", "views", "passes", "encoder", "data"),
    *("memory", "hardware", "precision", "date", "clctl"),
)
HEADS = (
    *("method", "recipe", "seeds", "year", "negatives", "views", "passes", "encoder", "data"),
    *("kNN (k 20, T 0.07)", "kNN (k 200, T 0.1)", "linear probe", "random-init kNN", "RankMe"),
    *("minutes", "images/s", "memory", "hardware", "precision", "date", "clctl", "state"),
)


def lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows grouped: same recipe and machine, each seed once; other machines have other lines.

    Args:
        rows: In any order.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r.method, r.recipe, r.hardware, r.seed, r.date)):
        again = 0  # the same seed twice is two results, and no mean
        while any(r.seed == row.seed for r in groups.get(_key(row, again), [])):
            again += 1
        groups.setdefault(_key(row, again), []).append(row)
    return [_line(group) for group in groups.values()]


def _key(row: Row, again: int) -> tuple[str, ...]:
    ended = "" if row.state == "done" else f"{row.state}: {row.why}"
    return row.recipe, row.digest, row.hardware, row.precision, ended, str(again)


def _line(group: list[Row]) -> dict[str, Any]:
    first = group[0].document()
    means = {
        key: [value for row in group if (value := getattr(row, key)) is not None]
        for key in MEASURED
    }
    return {
        **{key: first[key] for key in SHARED},
        "seeds": [row.seed for row in group],
        **{key: _over([getattr(row, key) for row in group]) for key in SCORES},
        **{key: statistics.fmean(values) if values else None for key, values in means.items()},
        "state": group[0].state,
        "why": "; ".join(dict.fromkeys(row.why for row in group if row.why)),
    }


def _over(scores: Sequence[Score | None]) -> dict[str, Any] | None:
    """Mean over seeds, and the wider of its intervals over images and over seeds."""
    there = [score for score in scores if score is not None]
    if not there:
        return None
    tops = [score.top1 for score in there]
    mean, images = statistics.fmean(tops), there[0].images
    spans = {"images": wilson(round(mean * images), images)}
    if len(there) == 1:
        spans["images"] = there[0].ci95
    else:
        low, high = mean_over_seeds(tops)[1:]
        spans["seeds"] = max(0.0, low), min(1.0, high)
    of = max(spans, key=lambda name: spans[name][1] - spans[name][0])
    base = [score.random_init for score in there if score.random_init is not None]
    return {
        "top1": mean,
        "ci95": list(spans[of]),
        "interval_over": of,
        "top1_by_seed": tops,
        "images": images,
        "random_init": statistics.fmean(base) if base else None,
    }


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown; what a name holds does not break it."""
    cells = [HEADS, tuple("---" for _ in HEADS), *map(_cells, table)]
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in cells)


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    scores = [_said(line[key]) for key in SCORES]
    base = line["knn"] and line["knn"]["random_init"]
    minutes = None if line["seconds"] is None else line["seconds"] / 60
    state = line["state"] + (f": {line['why']}" if line["why"] else "")
    return (
        *(line["method"] or "-", line["recipe"], ", ".join(map(str, line["seeds"]))),
        *(_plain(line[key]) for key in ("year", "negatives", "views", "passes", "encoder", "data")),
        *(
            *scores,
            _plain(base, ".3f"),
            _plain(line["rank_me"], ".0f"),
            _plain(minutes, ".2g" if (minutes or 0) < 10 else ".0f"),
        ),
        _plain(line["images_per_second"], ".0f"),
        *(_plain(line[key]) for key in ("memory", "hardware", "precision", "date", "clctl")),
        state,
    )


def _said(score: dict[str, Any] | None) -> str:
    """0.955 [0.929, 0.972] (0.956, 0.953): the mean, its interval, each seed."""
    if score is None:
        return "-"
    low, high = score["ci95"]
    each = ", ".join(f"{top:.3f}" for top in score["top1_by_seed"])
    several = f" ({each})" if len(score["top1_by_seed"]) > 1 else ""
    return f"{score['top1']:.3f} [{low:.3f}, {high:.3f}]{several}"


def _plain(value: Any, form: str = "") -> str:
    if value is None or value == "":
        return "-"
    return f"{value:{form or 'g'}}" if isinstance(value, (int, float)) else str(value)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())


def comma_separated(table: Sequence[dict[str, Any]]) -> str:
    """The table as CSV, with every number whole: a score has a column for each of its parts."""
    out = io.StringIO()
    rows = [_flat(line) for line in table]
    writer = csv.DictWriter(out, _FLAT, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


_FLAT = (
    *SHARED[:2],
    "seeds",
    *SHARED[2:8],
    *(
        f"{s}_{p}"
        for s in SCORES
        for p in ("top1", "low", "high", "interval_over", "by_seed", "images")
    ),
    "random_init",
    *MEASURED,
    *SHARED[8:],
    *("state", "why"),
)


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in line.items() if key not in SCORES}
    found["seeds"] = " ".join(map(str, line["seeds"]))
    for key in SCORES:
        if (score := line[key]) is not None:
            low, high = score["ci95"]
            parts = {"top1": score["top1"], "low": low, "high": high, "images": score["images"]}
            parts["interval_over"] = score["interval_over"]
            parts["by_seed"] = " ".join(map(str, score["top1_by_seed"]))
            found |= {f"{key}_{part}": value for part, value in parts.items()}
    found["random_init"] = line["knn"] and line["knn"]["random_init"]
    return found
