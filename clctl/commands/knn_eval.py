"""clctl knn-eval: the score of a checkpoint by weighted nearest neighbours."""

from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from clctl.commands._evaluation import Evaluate, run_evaluation
from clctl.commands._scoring import Bench, Judge, Material, Verdict
from clctl.console import Exit, Problem, Talk
from clctl.evaluate.knn import nearest, vote
from clctl.evaluate.score import score
from clctl.evaluate.subset import held_out
from clctl.report.document import Report


@dataclass(frozen=True)
class Neighbours:
    """The protocol.

    Attributes:
        ks: Neighbours that vote; several are all told, and one of them is chosen.
        temperatures: Of the weights exp(cosine / temperature).
        name: What the report calls it.
    """

    ks: tuple[int, ...] = (20,)
    temperatures: tuple[float, ...] = (0.07,)
    name: str = "clctl"

    @property
    def slug(self) -> str:
        """The protocol in a file's name."""
        ks, temperatures = (
            "_".join(map(str, self.ks)),
            "_".join(f"{t:g}" for t in self.temperatures),
        )
        return f"k{ks}-t{temperatures}"


# lightly: the online kNN of its benchmarks; dino: eval_knn.py of arXiv:2104.14294.
PROTOCOLS = {
    "clctl": Neighbours(),
    "lightly": Neighbours((200,), (0.1,), "lightly"),
    "dino": Neighbours((10, 20, 100, 200), (0.07,), "dino"),
}


def neighbours(ks: str | None, temperatures: str | None, protocol: str | None) -> Neighbours:
    """The protocol that was typed.

    Raises:
        Problem: If it is not known, or a number is out of range, or both ways are mixed.
    """
    if protocol is not None and (ks is not None or temperatures is not None):
        raise _usage(f"--protocol {protocol} has its own k and temperature; leave out the others")
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise _usage(f"--protocol {protocol} is none of {', '.join(PROTOCOLS)}")
        return PROTOCOLS[protocol]
    default = Neighbours()
    counts = default.ks if ks is None else _numbers("--k", ks)
    if any(k != int(k) for k in counts):
        raise _usage(f"--k {ks} is no list of counts")
    warmths = default.temperatures
    if temperatures is not None:
        warmths = _numbers("--temperature", temperatures)
    return Neighbours(tuple(map(int, counts)), warmths)


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise _usage(f"{flag} {text} is no list of numbers") from error
    if not all(0 < value < float("inf") for value in values):
        raise _usage(f"{flag} {text}: every value must be above 0")
    return tuple(dict.fromkeys(values))


def _usage(message: str) -> Problem:
    return Problem(message, Exit.USAGE, "usage.knn", "--k 1,5,20,200 --temperature 0.07")


def knn_eval(order: Evaluate, protocol: Neighbours, talk: Talk) -> Report:
    """Score a checkpoint and its baselines by their neighbours."""
    alone = len(protocol.ks) * len(protocol.temperatures) == 1  # else train is needed to choose on
    spares = 2 if alone else 0
    return run_evaluation(order, "knn-eval", protocol.slug, judge(protocol), talk, spares)


def judge(protocol: Neighbours) -> Judge:
    """How this protocol turns features into votes."""

    def verdict(bench: Bench, name: str) -> Verdict:
        material = bench.materials[name]()
        available = len(material.test) - 1 if material.train is None else len(material.train)
        if available < 1:
            raise Problem(
                "one picture has no neighbours", Exit.DATA, "data.too-few", "give more pictures"
            )
        ks = tuple(dict.fromkeys(min(k, available) for k in protocol.ks))
        if max(protocol.ks) > available and name == "trained":
            bench.talk.say(
                f"  note      k {max(protocol.ks)} is more than the {available} neighbours"
            )
        cells = list(product(ks, protocol.temperatures))
        train = bench.test if bench.train is None else bench.train
        bank = material.test if material.train is None else material.train
        queries = None if material.train is None else material.test
        votes = _votes(bench, bank, train.labels, queries, cells)
        held, how = _held_out(bench, material, cells)
        best = cells[0] if held is None else max(cells, key=lambda cell: held[cell])
        settled = {
            "name": protocol.name,
            "k": best[0],
            "temperature": best[1],
            "similarity": "cosine",
            "how": "leave-one-out" if queries is None else "train against test",
            "chosen_on": how,
        }
        grid = {cell: score(v, bench.test.labels).metrics for cell, v in votes.items()}
        return Verdict(votes[best], settled, _tables(grid, held, best))

    return verdict


Cell = tuple[int, float]  # k and temperature


def _votes(
    bench: Bench, bank: Tensor, labels: Tensor, queries: Tensor | None, cells: list[Cell]
) -> dict[Cell, Tensor]:
    """The votes of every cell, from one pass over the bank."""
    most = max(k for k, _ in cells)
    similarity, index = nearest(bank, queries, most, bench.device)
    near, classes = labels[index], len(bench.classes)
    return {
        (k, t): vote(similarity[:, :k], near[:, :k], classes=classes, temperature=t)
        for k, t in cells
    }


def _held_out(
    bench: Bench, material: Material, cells: list[Cell]
) -> tuple[dict[Cell, float] | None, str]:
    """Top-1 of every cell on samples that are not test, and in words which; None if not needed."""
    if len(cells) == 1:
        return None, "nothing was chosen"
    if material.train is None or bench.train is None:
        return None, "the first of the list: there is no training part to choose on"
    labels = bench.train.labels
    if material.choose is not None and bench.choose is not None:
        votes = _votes(bench, material.train, labels, material.choose, cells)
        truth, words = bench.choose.labels, bench.choose.name
    else:
        try:
            fit, held = held_out(labels)
        except ValueError as error:
            raise Problem(f"k cannot be chosen: {error}", Exit.DATA, "data.too-few") from error
        smaller = {(min(k, len(fit)), t) for k, t in cells}
        votes = _votes(bench, material.train[fit], labels[fit], material.train[held], [*smaller])
        votes = {(k, t): votes[min(k, len(fit)), t] for k, t in cells}
        truth, words = labels[held], f"a held-out tenth of {bench.train.name}"
    return {cell: score(v, truth).metrics["top1"] for cell, v in votes.items()}, words


def _tables(
    grid: dict[Cell, dict[str, float]], held: dict[Cell, float] | None, best: Cell
) -> dict[str, Any]:
    """The metrics of every cell: by k at the chosen temperature, and all of them."""
    cells = [
        {"k": k, "temperature": t, **metrics, "held_out_top1": held and held[k, t]}
        for (k, t), metrics in grid.items()
    ]
    by_k = {str(k): metrics for (k, t), metrics in grid.items() if t == best[1]}
    return {"metrics_by_k": by_k, "grid": cells}
