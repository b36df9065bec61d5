"""What all evaluations share: open what is scored, compare with the gate, write down, tell."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clctl.commands import _features, _setup
from clctl.commands._gate import TOP, Gate, gate, passed
from clctl.commands._pictures import Pictures
from clctl.commands._scoring import Bench, Judge, evaluate
from clctl.commands._telling import told
from clctl.commands._trained import Trained, initial, open_checkpoint
from clctl.console import Exit, Talk, dump
from clctl.data.open import load, trial
from clctl.evaluate.score import Score
from clctl.images import DataSet
from clctl.recipe.saved import with_data
from clctl.report.document import Report
from clctl.store import files
from clctl.store.run import Run


@dataclass(frozen=True)
class Evaluate:
    """What was typed for any command that scores a checkpoint or a file of features."""

    ckpt: str
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    fail_under: str | None = None
    out: Path | None = None
    layers: int | None = None


@dataclass(frozen=True)
class Subject:
    """What is scored, opened.

    Attributes:
        pictures: Encoder and pictures, unless the subject is a file of features.
        source: What the report says of the checkpoint or file.
        run: Its run folder, where it lies in one.
    """

    bench: Bench
    pictures: Pictures | None
    source: dict[str, Any]
    run: Path | None
    where: _setup.Machine


def open_subject(order: Evaluate, command: str, talk: Talk, spares: int = 0) -> Subject:
    """Open a checkpoint with its data, or a file of features.

    Args:
        spares: Pictures that the run never saw, and that came without a split, are all scored, each
            by the others, if every class has so many: better than a fifth of 200. 0: never.
    """
    where = _setup.machine(order.device)
    if _features.is_features(order.ckpt):
        bench = _features.bench(order.ckpt, order.data, order.split, where.device, talk)
        talk.say(f"{command} of the features in {order.ckpt}, {bench.protocol}")
        source = {"path": order.ckpt, "sha256": bench.facts["fingerprint"], "features": True}
        return Subject(bench, None, source, None, where)
    trained = open_checkpoint(order.ckpt, talk)
    pictures = picture(trained, order, where, talk, spares)
    talk.say(
        f"{command} of {trained.found.model} on {pictures.dataset.name}, {pictures.parts.protocol}"
    )
    talk.say(f"  labels    {pictures.dataset.labels_from.removeprefix('labels are ')}")
    whole = pictures.parts.train is None
    for note in pictures.dataset.notes:
        if not (whole and note == pictures.dataset.drawn):
            talk.say(f"  note      {note}")
    return Subject(pictures.bench(), pictures, describe(trained, order), trained.found.run, where)


def picture(
    trained: Trained, order: Evaluate, where: _setup.Machine, talk: Talk, spares: int = 0
) -> Pictures:
    """A checkpoint before the pictures that the command names; `spares` as in `open_subject`."""
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    return Pictures(
        recipe=trained.recipe,
        encoder=trained.encoder,
        dataset=dataset,
        parts=trial(dataset, "all" if _strange(order, trained, dataset, spares) else order.split),
        where=where,
        talk=talk,
        initial=initial(trained.recipe, trained.found.about, trained.found.run, talk),
        layers=order.layers,
    )


def _strange(order: Evaluate, trained: Trained, dataset: DataSet, least: int) -> bool:
    """Whether the data came without a split, has `least` of each class, and was not trained on."""
    if least == 0 or order.split is not None or dataset.drawn is None:
        return False
    trained_on = trained.found.about.get("data", {}).get("fingerprint")
    labels = [part.labels for part in dataset.splits.values() if part.labels is not None]
    fewest = int(torch.bincount(torch.cat(labels)).min())
    return trained_on != dataset.fingerprint and fewest >= least


def describe(trained: Trained, order: Evaluate) -> dict[str, Any]:
    """What the report says of a checkpoint."""
    found = trained.found
    return {
        "path": str(found.model),
        "sha256": found.sha256,
        "step": found.about.get("step"),
        "encoder": found.about["encoder"],
        "evaluated": found.about["evaluated"],
        "layers": order.layers,
    }


def run_evaluation(
    order: Evaluate, command: str, protocol: str, judge: Judge, talk: Talk, spares: int
) -> Report:
    """Score by one protocol, beside the baselines; `spares` as in `open_subject`."""
    threshold = gate(order.fail_under, TOP)
    subject = open_subject(order, command, talk, spares)
    result, common = evaluate(subject.bench, judge)
    return concluded(order, command, protocol, subject, result, common, threshold)


def concluded(
    order: Evaluate,
    command: str,
    protocol: str,
    subject: Subject,
    result: Score,
    common: dict[str, Any],
    threshold: Gate | None,
) -> Report:
    """The report of a score: completed, checked against the gate, and written down."""
    document = {
        "schema": f"clctl/{command}/1",
        **common,
        "checkpoint": subject.source,
        "environment": _setup.environment(subject.where),
    }
    met = passed(threshold, document)
    write(order, document)
    if subject.run is not None:
        record(Run(subject.run), subject.bench, result, document, protocol, order.split)
    text = told(command, subject.bench, document)
    return finished(document, text, f"{document['metrics']['top1']:.4f}", threshold, met)


def write(order: Evaluate, document: dict[str, Any]) -> None:
    """Put the report where --out says."""
    if order.out is not None:
        files.write(order.out, (dump(document) + "\n").encode())


def finished(
    document: dict[str, Any], text: str, short: str, threshold: Gate | None, met: bool
) -> Report:
    """The report with the verdict of the gate."""
    if not met and threshold is not None:
        text += f"\ngate: {threshold.metric} is under {threshold.minimum:g}"
    return Report(document, text, short, Exit.OK if met else Exit.GATE)


def record(
    run: Run,
    bench: Bench,
    result: Score,
    document: dict[str, Any],
    protocol: str,
    asked: str | None = None,
) -> None:
    """Keep the report and every image's prediction under the run's `evaluations`.

    Args:
        protocol: In a word, for the file's name.
        asked: The --split that was typed.
    """
    command = document["schema"].split("/")[1]
    labels, name = bench.test.labels, stem(command, bench.data, bench.test.name, protocol)
    arrays = io.BytesIO()
    np.savez(
        arrays,
        ids=np.array(list(bench.test.ids)),
        labels=labels.numpy(),
        predictions=result.predictions.numpy(),
        classes=np.array(bench.classes),
        fingerprint=np.array(bench.facts["fingerprint"]),
        checkpoint=np.array(document["checkpoint"].get("sha256", "")),
        asked=np.array(asked or ""),
    )
    files.make(run.evaluations)
    files.write(run.evaluations / f"{name}.npz", arrays.getvalue())
    files.write(run.evaluations / f"{name}.json", (dump(document) + "\n").encode())


def stem(*words: str) -> str:
    """The name of a record, safe as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))
