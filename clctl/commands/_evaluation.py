"""What knn-eval and linear-probe share: open, score, compare with the gate, write down."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clctl.commands import _setup
from clctl.commands._scoring import Bench, Judge, evaluate
from clctl.commands._trained import open_checkpoint
from clctl.console import Exit, Problem, Talk, dump
from clctl.data.open import load, trial
from clctl.evaluate.score import Score
from clctl.recipe.saved import with_data
from clctl.report.document import Report, duration, percent
from clctl.store import files
from clctl.store.run import Run


@dataclass(frozen=True)
class Evaluate:
    """What was typed for any command that scores a checkpoint."""

    ckpt: str
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    fail_under: str | None = None
    out: Path | None = None


def run_evaluation(
    order: Evaluate, command: str, protocol: str, judge: Judge, talk: Talk
) -> Report:
    """Score a checkpoint by one protocol, beside its baselines."""
    gate = _gate(order.fail_under)
    where = _setup.machine(order.device)
    trained = open_checkpoint(order.ckpt, talk)
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    parts = trial(dataset, order.split)
    bench = Bench(trained.recipe, trained.encoder, dataset, parts, where, talk)
    talk.say(f"{command} of {trained.found.model} on {dataset.name}, {parts.protocol}")
    talk.say(f"  labels    {dataset.labels_from.removeprefix('labels are ')}")
    for note in dataset.notes:
        talk.say(f"  note      {note}")
    result, common = evaluate(bench, judge)
    document = {
        "schema": f"clctl/{command}/1",
        **common,
        "checkpoint": {
            "path": str(trained.found.model),
            "sha256": trained.found.sha256,
            "step": trained.found.about.get("step"),
            "encoder": trained.found.about["encoder"],
            "evaluated": trained.found.about["evaluated"],
        },
        "environment": _setup.environment(where),
    }
    met = gate is None or result.metrics.get(gate[0], -1.0) >= gate[1]
    if gate is not None:
        if gate[0] not in result.metrics:
            raise Problem(
                f"--fail-under {gate[0]}: this score has {', '.join(result.metrics)}",
                Exit.USAGE,
                "usage.gate",
            )
        document["gate"] = {"metric": gate[0], "minimum": gate[1], "met": met}
    if order.out is not None:
        files.write(order.out, (dump(document) + "\n").encode())
    if trained.found.run is not None:
        record(Run(trained.found.run), bench, result, document, command, protocol)
    text = _text(command, bench, result, document)
    if not met:
        assert gate is not None
        text += f"\ngate: {gate[0]} is under {gate[1]:g}"
    short = f"{result.metrics['top1']:.4f}"
    return Report(document, text, short, Exit.OK if met else Exit.GATE)


def record(
    run: Run, bench: Bench, result: Score, document: dict[str, Any], command: str, protocol: str
) -> None:
    """Keep the report and every image's prediction under the run's `evaluations`."""
    stem = f"{command}-{bench.dataset.name}-{bench.parts.test.name}-{protocol}"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
    labels = bench.label(bench.parts.test)
    arrays = io.BytesIO()
    np.savez(
        arrays,
        ids=np.array(list(bench.parts.test.ids)),
        labels=labels.numpy(),
        predictions=result.predictions.numpy(),
        classes=np.array(bench.dataset.classes),
    )
    files.make(run.evaluations)
    files.write(run.evaluations / f"{stem}.npz", arrays.getvalue())
    files.write(run.evaluations / f"{stem}.json", (dump(document) + "\n").encode())


def _gate(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    name, _, number = text.partition("=")
    try:
        minimum = float(number)
    except ValueError:
        minimum = -1.0
    if name not in ("top1", "top5") or not 0 <= minimum <= 1:
        raise Problem(
            f"--fail-under {text} is not METRIC=SHARE with a share in [0, 1]",
            Exit.USAGE,
            "usage.gate",
            "--fail-under top1=0.70",
        )
    return name, minimum


def _text(command: str, bench: Bench, result: Score, document: dict[str, Any]) -> str:
    low, high = result.interval
    base, reading = document["baselines"], document["collapse"]
    shares = ", ".join(f"{name} {percent(value)}" for name, value in result.metrics.items())
    return "\n".join(
        [
            f"{command} on {bench.dataset.name} {bench.parts.test.name}: {shares} "
            f"(95 %: {percent(low)} to {percent(high)}, {len(bench.parts.test):,} images)",
            f"  beside    random-init {percent(base['random_init'])}, "
            f"raw pixels {percent(base['pixels'])}, majority {percent(base['majority'])}, "
            f"chance {percent(base['chance'])}",
            f"  features  spread {reading['feature_spread']:.2f} "
            f"(random-init {reading['feature_spread_random_init']:.2f}), "
            f"RankMe {reading['rank_me']:.1f} (random-init {reading['rank_me_random_init']:.1f})",
            f"  took      {duration(document['seconds'])}",
        ]
    )
