"""A score in words."""

from typing import Any

from clctl.commands._scoring import Bench
from clctl.data.words import shown
from clctl.report.document import duration, percent

NAMES = {"random_init": "random-init", "pixels": "raw pixels", "initial": "initial weights"}


def beside(baselines: dict[str, float | None]) -> str:
    """The baselines in words."""
    known = [(word, baselines.get(name)) for name, word in NAMES.items()]
    known += [(name, baselines.get(name)) for name in ("majority", "chance")]
    return ", ".join(f"{word} {percent(value)}" for word, value in known if value is not None)


def features(reading: dict[str, float]) -> str:
    """Spread and rank in words."""
    spread, rank = f"spread {reading['feature_spread']:.2f}", f"RankMe {reading['rank_me']:.1f}"
    if "rank_me_random_init" in reading:
        spread += f" (random-init {reading['feature_spread_random_init']:.2f})"
        rank += f" (random-init {reading['rank_me_random_init']:.1f})"
    return f"{spread}, {rank}"


def told(command: str, bench: Bench, document: dict[str, Any]) -> str:
    """The lines for people of a classifier's score."""
    low, high = document["top1_ci95"]
    shares = ", ".join(f"{n} {percent(v)}" for n, v in document["metrics"].items())
    lines = [
        f"{command} on {bench.data} {bench.test.name}: {shares} "
        f"(95 %: {percent(low)} to {percent(high)}, {len(bench.test):,} images)",
        f"  beside    {beside(document['baselines'])}",
        *(_worst(document["per_class"]) if len(bench.classes) > 2 else ()),
        *_grid(document.get("metrics_by_k", {})),
        *_seeds(document.get("seeds")),
        *_curve(document.get("curve", ())),
        f"  features  {features(document['collapse'])}",
        f"  took      {duration(document['seconds'])}",
    ]
    return "\n".join(lines)


def _worst(rows: list[dict[str, Any]]) -> list[str]:
    seen = sorted((r for r in rows if r["recall"] is not None), key=lambda r: r["recall"])
    return [
        "  weakest   " + ", ".join(f"{shown(r['class'])} {percent(r['recall'])}" for r in seen[:3])
    ]


def _grid(rows: dict[str, dict[str, float]]) -> list[str]:
    words = [f"k {k} {percent(row['top1'])}" for k, row in rows.items()]
    return ["  by k      " + ", ".join(words)] if len(rows) > 1 else []


def _seeds(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    low, high = found["ci95"]
    return [
        f"  seeds     {found['count']}, mean {percent(found['mean'])} "
        f"(95 % over seeds: {percent(low)} to {percent(high)})"
    ]


def _curve(points: list[dict[str, Any]]) -> list[str]:
    lines = []
    for point in points:
        rival = point["random_init"]
        beside = "" if rival is None else f"; from random weights {percent(rival['top1'])}"
        low, high = point["ci95"]
        lines.append(
            f"  {100 * point['fraction']:>5g} %   {point['images']:,} labels: "
            f"{percent(point['top1'])} (95 %: {percent(low)} to {percent(high)}){beside}"
        )
    return lines
