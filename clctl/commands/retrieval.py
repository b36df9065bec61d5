"""clctl retrieval: whether the nearest pictures are of the same class."""

import time
from typing import Any

from clctl.commands import _setup
from clctl.commands._evaluation import Evaluate, finished, open_subject, stem, write
from clctl.commands._gate import gate, passed
from clctl.commands._scoring import BASELINES, Bench, collapse, labelled, of_data
from clctl.commands._telling import features
from clctl.console import Exit, Problem, Talk, dump
from clctl.evaluate.intervals import wilson
from clctl.evaluate.retrieval import Retrieval
from clctl.evaluate.retrieval import retrieval as retrieve
from clctl.report.document import Report, duration, percent
from clctl.store import files
from clctl.store.run import Run

KS = (1, 5, 10)


def counts(text: str | None) -> tuple[int, ...]:
    """--k, read.

    Raises:
        Problem: If it is no list of whole numbers above 0.
    """
    if text is None:
        return KS
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise Problem(f"--k {text} is no list of counts", Exit.USAGE, "usage.k", "--k 1,5,10")
    return tuple(sorted({int(word) for word in words}))


def retrieval(order: Evaluate, ks: tuple[int, ...], talk: Talk) -> Report:
    """Recall and precision at k and mAP@R of a checkpoint and its baselines."""
    names = ("map_at_r", *(f"{kind}_at_{k}" for kind in ("recall", "precision") for k in ks))
    threshold = gate(order.fail_under, names)
    subject = open_subject(order, "retrieval", talk, spares=2)
    bench = subject.bench
    labelled(bench)
    begun = time.perf_counter()
    found = _found(bench, "trained", ks)
    floor = {name: _found(bench, name, ks).metrics for name in bench.rivals}
    hits = int(found.first_hit.sum())
    how = "each test image against the others" if bench.train is None else "test against train"
    document: dict[str, Any] = {
        "schema": "clctl/retrieval/1",
        "metrics": found.metrics,
        "recall_at_1_ci95": list(wilson(hits, found.queries)),
        "queries": found.queries,
        "without": found.without,
        "baselines": {name: floor.get(name) for name in BASELINES},
        "data": of_data(bench),
        "collapse": collapse(bench.materials),
        "protocol": {"parts": bench.protocol, "how": how, "similarity": "cosine", "k": list(ks)},
        "checkpoint": subject.source,
        "environment": _setup.environment(subject.where),
        "seconds": time.perf_counter() - begun,
    }
    met = passed(threshold, document)
    write(order, document)
    if subject.run is not None:
        run = Run(subject.run)
        name = stem("retrieval", bench.data, bench.test.name, "k" + "_".join(map(str, ks)))
        files.make(run.evaluations)
        files.write(run.evaluations / f"{name}.json", (dump(document) + "\n").encode())
    short = f"{found.metrics['map_at_r']:.4f}"
    return finished(document, _text(bench, found, document), short, threshold, met)


def _found(bench: Bench, name: str, ks: tuple[int, ...]) -> Retrieval:
    material = bench.materials[name]()
    labels = bench.test.labels
    try:
        if material.train is None or bench.train is None:
            return retrieve(material.test, labels, None, None, ks=ks)
        return retrieve(material.train, bench.train.labels, material.test, labels, ks=ks)
    except ValueError as error:
        raise Problem(
            f"nothing can be retrieved: {error}", Exit.DATA, "data.too-few", "give more pictures"
        ) from error


def _text(bench: Bench, found: Retrieval, document: dict[str, Any]) -> str:
    low, high = document["recall_at_1_ci95"]
    words = [f"{name.replace('_', ' ')} {percent(value)}" for name, value in found.metrics.items()]
    rivals = [
        f"{name.replace('_', '-')} {percent(values['map_at_r'])}"
        for name, values in document["baselines"].items()
        if values is not None
    ]
    left = f", {found.without} without another of their class" if found.without else ""
    lines = [
        f"retrieval on {bench.data} {bench.test.name}: {', '.join(words)}",
        f"  queries   {found.queries:,}{left}; recall at 1 is within {percent(low)} to "
        f"{percent(high)} (95 %)",
        *([f"  mAP@R of  {', '.join(rivals)}"] if rivals else []),
        f"  features  {features(document['collapse'])}",
        f"  took      {duration(document['seconds'])}",
    ]
    return "\n".join(lines)
