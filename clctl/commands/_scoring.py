"""One way to score for every command: features once, then the same for the baselines."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from clctl.console import Exit, Problem, Talk
from clctl.evaluate import diagnostics
from clctl.evaluate.overlap import Overlap
from clctl.evaluate.score import Score, chance, confusion, per_class, score

SHOWN = 200  # classes up to which a report carries the confusion matrix


@dataclass(frozen=True)
class Part:
    """The samples of one part of a data set, as a score sees them: name, labels [N], ids."""

    name: str
    labels: Tensor
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Material:
    """Features of every part of a data set that an evaluation uses.

    Attributes:
        train: float32 [N, D], or None where the test part is all there is (leave-one-out).
        choose: Features of the part that chooses hyper-parameters, or None.
        test: float32 [M, D].
    """

    train: Tensor | None
    choose: Tensor | None
    test: Tensor


@dataclass(frozen=True)
class Bench:
    """Everything that scoring needs; features are computed when they are first asked for.

    Attributes:
        data: The name of the data set, for people and file names.
        train, choose: None as in Material.
        protocol: The parts in words.
        facts: What the report says of the data.
        materials: "trained", and the baselines that there are: "random_init", "pixels", "initial".
        overlap: Test samples that have a twin, computed when first asked for.
        device: Where the arithmetic on features is done.
        rows: Which rows of the data's own train part are left, where not all are.
    """

    data: str
    classes: tuple[str, ...]
    train: Part | None
    choose: Part | None
    test: Part
    protocol: str
    facts: dict[str, Any]
    materials: Mapping[str, Callable[[], Material]]
    overlap: Callable[[], Overlap]
    device: torch.device
    talk: Talk
    rows: Tensor | None = None

    @property
    def rivals(self) -> tuple[str, ...]:
        """The names of the baselines."""
        return tuple(name for name in self.materials if name != "trained")

    def reduced(self, rows: Tensor) -> "Bench":
        """The same with these rows of train alone; validation and test stay whole."""
        assert self.train is not None
        part = Part(
            self.train.name, self.train.labels[rows], [str(self.train.ids[int(i)]) for i in rows]
        )

        def fewer(whole: Callable[[], Material]) -> Callable[[], Material]:
            def material() -> Material:
                found = whole()
                assert found.train is not None
                return replace(found, train=found.train[rows])

            return cache(material)

        materials = {name: fewer(whole) for name, whole in self.materials.items()}
        kept = rows if self.rows is None else self.rows[rows]
        return replace(self, train=part, materials=materials, rows=kept)


@dataclass(frozen=True)
class Verdict:
    """What a protocol makes of features.

    Attributes:
        votes: float32 [M, classes], votes or probabilities of the test samples.
        settled: What was settled on the way; becomes part of the report's protocol.
        more: Further parts of the report.
    """

    votes: Tensor
    settled: dict[str, Any]
    more: dict[str, Any]


Judge = Callable[[Bench, str], Verdict]
"""A bench and the name of one of its materials -> the verdict."""


def labelled(bench: Bench) -> None:
    """Refuse what no score can be made of.

    Raises:
        Problem: If there are fewer than two classes, or no test sample.
    """
    found = len(bench.test.labels.unique())
    if len(bench.classes) < 2 or found < 2:
        named = bench.classes if len(bench.classes) < 2 else [f"one of {len(bench.classes)}"]
        raise Problem(
            f"{bench.data} {bench.test.name} has one class ({', '.join(named)}): "
            "nothing to tell apart",
            Exit.DATA,
            "data.one-class",
            "give pictures of at least two classes",
        )


def evaluate(bench: Bench, judge: Judge) -> tuple[Score, dict[str, Any]]:
    """Score the checkpoint and its baselines alike.

    Returns:
        The score, and the common part of the report: metrics, interval, baselines, data.
    """
    labelled(bench)
    begun = time.perf_counter()
    verdict = judge(bench, "trained")
    result = score(verdict.votes, bench.test.labels)
    floor = {n: score(judge(bench, n).votes, bench.test.labels).metrics for n in bench.rivals}
    report = {**described(bench, result, floor), **verdict.more}
    report["protocol"] = {"parts": bench.protocol, **verdict.settled}
    return result, {**report, "seconds": time.perf_counter() - begun}


def described(bench: Bench, result: Score, floor: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The part of a report that says what was scored, how well, and beside what."""
    labels, count = bench.test.labels, len(bench.classes)
    matrix = confusion(result.predictions, labels, count).tolist() if count <= SHOWN else None
    return {
        "metrics": result.metrics,
        "top1_ci95": list(result.interval),
        "baselines": {
            **chance(labels, count),
            **{name: floor[name]["top1"] if name in floor else None for name in BASELINES},
        },
        "baseline_metrics": floor,
        "data": of_data(bench),
        "collapse": collapse(bench.materials),
        "per_class": per_class(result.predictions, labels, bench.classes),
        "confusion": matrix,
    }


BASELINES = ("random_init", "pixels", "initial")


def of_data(bench: Bench) -> dict[str, Any]:
    """What was scored on, and whether the answers were there to be seen."""
    twins = bench.overlap()
    if twins.identical:
        where = "in train" if bench.train is not None else "beside them"
        share = f"{twins.identical} of {twins.of}"
        loud = f"WARNING: all {twins.of}" if twins.identical == twins.of else f"warning: {share}"
        first = "; ".join(f"{test} = {train}" for test, train in twins.named[:2])
        bench.talk.say(f"  {loud} test images have an identical one {where} ({first})")
    return {
        "name": bench.data,
        **bench.facts,
        "classes": list(bench.classes),
        "test": bench.test.name,
        "test_images": len(bench.test),
        "train_images": 0 if bench.train is None else len(bench.train),
        "overlap": {
            "identical": twins.identical,
            "with": "train" if bench.train is not None else "itself",
            "named": [list(pair) for pair in twins.named],
        },
    }


def collapse(materials: Mapping[str, Callable[[], Material]]) -> dict[str, float]:
    """Spread and effective rank of the features of the test part, beside random-init's."""
    rivals = {"": "trained", "_random_init": "random_init"}
    there = {end: materials[name]().test for end, name in rivals.items() if name in materials}
    spread = {f"feature_spread{end}": diagnostics.feature_spread(z) for end, z in there.items()}
    return spread | {f"rank_me{end}": diagnostics.rank_me(z) for end, z in there.items()}
