"""One protocol over seeds and over shares of the labels: a curve with intervals."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from clctl.commands._scoring import Bench, Judge, Verdict, described, labelled
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
    curve = wanted.fractions != (1.0,)
    beside = curve and "random_init" in floor
    points = [_point(bench, judge_of, wanted.seeds, share, beside) for share in wanted.fractions]
    last = points[-1]
    rivals = {
        name: last.beside[0].metrics
        if name == "random_init" and last.beside
        else score(judge_of(0)(last.bench, name).votes, bench.test.labels).metrics
        for name in floor
    }
    scores = last.scores
    metrics = {n: statistics.fmean(s.metrics[n] for s in scores) for n in scores[0].metrics}
    head = replace(scores[0], metrics=metrics, interval=_wilson(metrics["top1"], len(bench.test)))
    report = {**described(last.bench, head, rivals), **last.verdict.more}
    report["protocol"] = {"parts": bench.protocol, **last.verdict.settled}
    if curve:
        report["curve"] = [point.document() for point in points]
    if wanted.seeds > 1:
        values = [s.metrics["top1"] for s in scores]
        mean, low, high = mean_over_seeds(values)
        report["seeds"] = {"count": wanted.seeds, "top1": values, "mean": mean, "ci95": [low, high]}
    return head, {**report, "seconds": time.perf_counter() - begun}


@dataclass(frozen=True)
class _Point:
    """One share of the labels.

    Attributes:
        bench, verdict: Of the first seed.
        scores: One a seed.
        beside: The same from random weights; empty where it is not wanted.
    """

    share: float
    bench: Bench
    verdict: Verdict
    scores: list[Score]
    beside: list[Score]

    def document(self) -> dict[str, Any]:
        """The point as a report shows it."""
        part, count = self.bench.train or self.bench.test, len(self.bench.test)
        return {
            "fraction": self.share,
            "images": len(part),
            **_summary(self.scores, count),
            "random_init": _summary(self.beside, count) if self.beside else None,
        }


def _point(
    bench: Bench, judge_of: Callable[[int], Judge], seeds: int, share: float, beside: bool
) -> _Point:
    """Run the protocol on one share of the labels with every seed."""
    labels = bench.test.labels
    benches = [_reduced(bench, seed, share) for seed in range(seeds)]
    verdicts = [judge_of(seed)(smaller, "trained") for seed, smaller in enumerate(benches)]
    rivals = enumerate(benches if beside else [])
    return _Point(
        share=share,
        bench=benches[0],
        verdict=verdicts[0],
        scores=[score(verdict.votes, labels) for verdict in verdicts],
        beside=[score(judge_of(n)(smaller, "random_init").votes, labels) for n, smaller in rivals],
    )


def _reduced(bench: Bench, seed: int, share: float) -> Bench:
    if share == 1 or bench.train is None:
        return bench
    return bench.reduced(balanced(bench.train.labels, share, seed))


def _summary(scores: list[Score], count: int) -> dict[str, Any]:
    """Mean top-1, and the wider of its intervals over images and, where there are several, seeds."""
    values = [s.metrics["top1"] for s in scores]
    mean = statistics.fmean(values)
    intervals = {"images": _wilson(mean, count)}
    if len(values) > 1:
        intervals["seeds"] = mean_over_seeds(values)[1:]
    of = max(intervals, key=lambda name: intervals[name][1] - intervals[name][0])
    return {
        "top1": mean,
        "ci95": list(intervals[of]),
        "interval_over": of,
        "top1_by_seed": values,
    }


def _wilson(share: float, total: int) -> tuple[float, float]:
    return wilson(round(share * total), total)
