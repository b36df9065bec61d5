"""One protocol over seeds and over shares of the labels: a curve with intervals."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from clctl.commands._scoring import Bench, Judge, described, labelled
from clctl.console import Exit, Problem
from clctl.evaluate.intervals import mean_over_seeds, wilson
from clctl.evaluate.score import Score, score
from clctl.evaluate.subset import balanced


@dataclass(frozen=True)
class Repeats:
    """How often and on how many labels a protocol is run.

    Attributes:
        seeds: Runs of each point, with seeds 0 to seeds - 1.
        fractions: Shares of the training labels, rising; (1.0,) for all.
    """

    seeds: int = 1
    fractions: tuple[float, ...] = (1.0,)

    @property
    def slug(self) -> str:
        """The repeats in a file's name; empty for a single run on all labels."""
        shares = (
            "" if self.fractions == (1.0,) else f"-f{'_'.join(map('{:g}'.format, self.fractions))}"
        )
        return shares + (f"-s{self.seeds}" if self.seeds > 1 else "")


def repeats(seeds: int, fractions: str | None) -> Repeats:
    """What was typed.

    Raises:
        Problem: If a number is out of range.
    """
    if seeds < 1:
        raise Problem(f"--seeds {seeds} must be 1 or more", Exit.USAGE, "usage.seeds", "--seeds 3")
    if fractions is None:
        return Repeats(seeds)
    try:
        shares = sorted({float(word) for word in fractions.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise Problem(
            f"--label-fraction {fractions} is no list of shares in (0, 1]",
            Exit.USAGE,
            "usage.label-fraction",
            "--label-fraction 0.01,0.1,1",
        )
    return Repeats(seeds, tuple(shares))


def evaluate_repeats(
    bench: Bench, judge_of: Callable[[int], Judge], wanted: Repeats, floor: tuple[str, ...]
) -> tuple[Score, dict[str, Any]]:
    """Score on every share of the labels with every seed, beside the encoder with random weights.

    Args:
        judge_of: Seed -> the protocol with it.
        floor: Baselines of the headline, which is the largest share.

    Returns:
        The score of the first seed on the largest share, and the common part of the report, whose
        metrics are means over seeds.
    """
    labelled(bench)
    if bench.train is None and wanted.fractions != (1.0,):
        raise Problem(
            "--label-fraction takes from a training part, and here each picture is scored by the "
            f"others ({bench.protocol})",
            Exit.USAGE,
            "usage.label-fraction",
            "give data with train/ and test/",
        )
    begun = time.perf_counter()
    points, last = [], None
    for share in wanted.fractions:
        runs = [_run(bench, judge_of(seed), seed, share) for seed in range(wanted.seeds)]
        scores = [score(verdict.votes, bench.test.labels) for _, verdict in runs]
        rival = None
        if "random_init" in floor and wanted.fractions != (1.0,):
            beside = [
                score(judge_of(seed)(smaller, "random_init").votes, bench.test.labels)
                for seed, (smaller, _) in enumerate(runs)
            ]
            rival = _summary(beside, bench)
        images = runs[0][0].train
        count = len(bench.test) if images is None else len(images)
        points.append(
            {"fraction": share, "images": count, **_summary(scores, bench), "random_init": rival}
        )
        last = runs[0], scores
    assert last is not None
    (whole, verdict), scores = last
    metrics = {n: statistics.fmean(s.metrics[n] for s in scores) for n in scores[0].metrics}
    rivals = {}
    for name in floor:
        rivals[name] = score(judge_of(0)(whole, name).votes, bench.test.labels).metrics
    head = replace(scores[0], metrics=metrics, interval=_wilson(metrics["top1"], len(bench.test)))
    report = {**described(whole, head, rivals), **verdict.more}
    report["protocol"] = {"parts": bench.protocol, **verdict.settled}
    if wanted.fractions != (1.0,):
        report["curve"] = points
    if wanted.seeds > 1:
        values = [s.metrics["top1"] for s in scores]
        mean, low, high = mean_over_seeds(values)
        report["seeds"] = {"count": wanted.seeds, "top1": values, "mean": mean, "ci95": [low, high]}
    return head, {**report, "seconds": time.perf_counter() - begun}


def _run(bench: Bench, judge: Judge, seed: int, share: float) -> tuple[Bench, Any]:
    smaller = bench
    if share < 1 and bench.train is not None:
        smaller = bench.reduced(balanced(bench.train.labels, share, seed))
    return smaller, judge(smaller, "trained")


def _summary(scores: list[Score], bench: Bench) -> dict[str, Any]:
    """Mean top-1, and its interval: over seeds where there are several, else over images."""
    values = [s.metrics["top1"] for s in scores]
    mean = statistics.fmean(values)
    over = mean_over_seeds(values)[1:] if len(values) > 1 else _wilson(mean, len(bench.test))
    of = "seeds" if len(values) > 1 else "images"
    return {"top1": mean, "ci95": list(over), "interval_over": of, "top1_by_seed": values}


def _wilson(share: float, total: int) -> tuple[float, float]:
    return wilson(round(share * total), total)
