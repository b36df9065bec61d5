"""clctl knn-eval: the score of a checkpoint by weighted nearest neighbours."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clctl.commands._evaluation import Evaluate, run_evaluation
from clctl.commands._scoring import Bench, Judge, Material
from clctl.console import Exit, Problem, Talk
from clctl.evaluate.knn import knn
from clctl.report.document import Report


@dataclass(frozen=True)
class Neighbours:
    """The protocol. k: neighbours that vote; temperature: of their weights."""

    k: int = 20
    temperature: float = 0.07

    @property
    def slug(self) -> str:
        """The protocol in a file's name."""
        return f"k{self.k}-t{self.temperature:g}"


def knn_eval(order: Evaluate, protocol: Neighbours, talk: Talk) -> Report:
    """Score a checkpoint and its baselines by their neighbours.

    Raises:
        Problem: Among others, if k or temperature is out of range.
    """
    if protocol.k < 1 or not protocol.temperature > 0:
        raise Problem(
            f"--k {protocol.k} and --temperature {protocol.temperature:g} must both be above 0",
            Exit.USAGE,
            "usage.knn",
            "--k 20 --temperature 0.07",
        )
    return run_evaluation(order, "knn-eval", protocol.slug, judge(protocol), talk)


def judge(protocol: Neighbours) -> Judge:
    """How this protocol turns features into votes."""

    def votes(bench: Bench, material: Material) -> tuple[Tensor, dict[str, Any]]:
        alone = material.train is None
        bank = material.test if material.train is None else material.train
        labels = bench.label(bench.parts.test if alone else bench.parts.train)
        queries = None if alone else material.test
        k = min(protocol.k, len(bank) - alone)
        if k < 1:
            raise Problem(
                "one picture has no neighbours", Exit.DATA, "data.too-few", "give more pictures"
            )
        shares = knn(
            bank, labels, queries, classes=bench.classes, k=k, temperature=protocol.temperature
        )
        how = "leave-one-out" if alone else "train against test"
        settled = {"k": k, "temperature": protocol.temperature, "similarity": "cosine", "how": how}
        return shares, settled

    return votes
