"""clctl compare: whether one model is better than another, on the same test images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from clctl.commands._compared import markdown, told
from clctl.commands._evaluation import Evaluate
from clctl.commands._gate import gate
from clctl.commands._predictions import Predictions, predictions
from clctl.commands._sweep_folder import runs
from clctl.commands.knn_eval import Neighbours
from clctl.commands.knn_eval import judge as by_neighbours
from clctl.commands.linear_probe import judge as by_probe
from clctl.console import Exit, Problem, Talk, dump
from clctl.evaluate.intervals import difference_over_seeds, paired, wilson
from clctl.recipe.identity import differences
from clctl.report.document import Report
from clctl.store import files

JUDGES = {
    "knn-eval": (Neighbours().slug, by_neighbours(Neighbours())),
    "linear-probe": ("cached", by_probe(0)),
}


@dataclass(frozen=True)
class Order:
    """What was typed."""

    subjects: tuple[str, ...]
    by: str = "knn-eval"
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    fail_on_drop: str | None = None
    out: Path | None = None
    markdown: bool = False


def compare(order: Order, talk: Talk) -> Report:
    """Paired differences of top-1 between every two models."""
    gated = gate(order.fail_on_drop, ("top1",), "--fail-on-drop", "0.005")
    allowed = None if gated is None else gated.minimum
    subjects = runs(order.subjects, talk.say)
    if len(subjects) < 2:
        raise Problem(
            "compare takes two models or more", Exit.USAGE, "usage.compare", "clctl compare A B"
        )
    if order.by not in JUDGES:
        raise Problem(
            f"--by {order.by} is none of {', '.join(JUDGES)}",
            Exit.USAGE,
            "usage.compare",
            "--by knn-eval",
        )
    slug, judge = JUDGES[order.by]
    one = Evaluate("", order.data, order.split, order.device)
    sides = [predictions(replace(one, ckpt=s), order.by, slug, judge, talk) for s in subjects]
    document = compared(sides, order.by)
    first = document["differences"][: len(sides) - 1]  # of the first model with each other
    worst = min(pair["difference"] for pair in first)
    met = allowed is None or worst >= -allowed
    if allowed is not None:
        document["gate"] = {"metric": "top1", "largest_drop": allowed, "drop": -worst, "met": met}
    if order.out is not None:
        files.write(order.out, (dump(document) + "\n").encode())
    text = markdown(document) if order.markdown else told(document)
    if not met:
        text += f"\n\ngate: top1 fell by {-worst:.4f}, more than {allowed:g}"
    short = f"{first[0]['difference']:+.4f}"
    return Report(document, text, short, Exit.OK if met else Exit.GATE)


def compared(sides: Sequence[Predictions], by: str) -> dict[str, Any]:
    """The document of clctl compare for two models or more.

    Args:
        by: The command that made the predictions.

    Raises:
        Problem: If they are not of the same images.
    """
    sides = _named(sides)
    ids = _same_images(sides)
    right = {side.name: side.right(ids) for side in sides}
    pairs = [_difference(a, b, right) for a, b in combinations(sides, 2)]
    return {
        "schema": "clctl/compare/1",
        "images": len(ids),
        "models": [_model(side, right[side.name]) for side in sides],
        "differences": [*pairs, *_over_seeds(sides, right)],
        "protocol": {
            "by": by,
            "interval": "exact bootstrap over images of the paired difference",
            "p_value": "McNemar, mid-p",
        },
    }


def _named(sides: Sequence[Predictions]) -> list[Predictions]:
    """The same with names that tell them apart."""
    names = [side.name for side in sides]
    return [
        side if names.count(side.name) == 1 else replace(side, name=f"{side.name} #{i + 1}")
        for i, side in enumerate(sides)
    ]


def _same_images(sides: list[Predictions]) -> list[str]:
    """The ids that all share.

    Raises:
        Problem: If the test images differ, or their labels.
    """
    first, advice = sides[0], "score both on the same data: --data PATH --split test"
    for side in sides[1:]:
        prints = {side.fingerprint, first.fingerprint} - {""}
        if side.truth.keys() != first.truth.keys() or len(prints) > 1:
            shared = len(side.truth.keys() & first.truth.keys())
            raise Problem(
                f"{first.name} ({first.words}, {len(first.truth)} images) and {side.name} "
                f"({side.words}, {len(side.truth)} images) were not scored on the same images; "
                + (f"{shared} names are shared" if len(prints) < 2 else "the data differ"),
                Exit.DATA,
                "data.not-paired",
                advice,
            )
        if side.truth != first.truth:
            other = sum(side.truth[i] != first.truth[i] for i in first.truth)
            raise Problem(
                f"{first.name} and {side.name} give {other} images different labels",
                Exit.DATA,
                "data.not-paired",
                advice,
            )
    return list(first.truth)


def _model(side: Predictions, right: np.ndarray) -> dict[str, Any]:
    top1, count = float(right.mean()), len(right)
    low, high = wilson(int(right.sum()), count)
    return {"name": side.name, "top1": top1, "top1_ci95": [low, high], "from": side.words}


def _difference(a: Predictions, b: Predictions, right: dict[str, np.ndarray]) -> dict[str, Any]:
    found = paired(right[a.name], right[b.name])
    recipe = None
    if a.recipe is not None and b.recipe is not None:
        recipe = differences(a.recipe, b.recipe)
    return {
        "a": a.name,
        "b": b.name,
        "metric": "top1",
        "over": "images",
        "difference": found.difference,
        "ci95": [found.low, found.high],
        "p_value": found.p_value,
        "significant": found.significant,
        "only_a_right": int((right[a.name] & ~right[b.name]).sum()),
        "only_b_right": int((right[b.name] & ~right[a.name]).sum()),
        "recipe": recipe,
    }


def _over_seeds(sides: list[Predictions], right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Differences between recipes that were each trained with several seeds."""
    groups: dict[str, list[Predictions]] = {}
    for side in sides:
        if side.recipe is not None:
            rest = {k: v for k, v in side.recipe.items() if k not in ("seed", "name")}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(side)
    several = [group for group in groups.values() if len(group) > 1]
    found = []
    for a, b in combinations(several, 2):
        tops = [[float(right[side.name].mean()) for side in group] for group in (a, b)]
        difference, low, high = difference_over_seeds(*tops)
        found.append(
            {
                "a": " + ".join(side.name for side in a),
                "b": " + ".join(side.name for side in b),
                "metric": "top1",
                "over": "seeds",
                "difference": difference,
                "ci95": [low, high],
                "p_value": None,
                "significant": not low <= 0 <= high,
            }
        )
    return found
