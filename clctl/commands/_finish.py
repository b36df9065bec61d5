"""The end of a run: its score beside random-init and chance, the folder, what to type next."""

from pathlib import Path
from shlex import quote
from typing import Any, cast

import torch

from clctl.commands._evaluation import record
from clctl.commands._memory import peak
from clctl.commands._pictures import Pictures
from clctl.commands._refresh import finished
from clctl.commands._scoring import collapse, evaluate
from clctl.commands._trained import initial
from clctl.commands._training import Trainer
from clctl.commands.knn_eval import Neighbours, judge
from clctl.console import Exit
from clctl.data.open import Trial, trial
from clctl.images import DataSet, Split
from clctl.method import Encoder
from clctl.report.document import Report, percent
from clctl.store import checkpoint
from clctl.store.reading import digest

SAMPLE = 4096  # images whose features tell spread and rank where there are no labels


def outcome(trainer: Trainer) -> dict[str, Any]:
    """The part of the report that every end has."""
    last = {k: v for k, v in trainer.last.items() if k in ("loss", "loss_chance", "spread", "knn")}
    newest = trainer.run.checkpoints / f"step-{trainer.done:08d}"
    return {
        "schema": "clctl/pretrain/1",
        "status": "done",
        "run": str(trainer.run.folder),
        "checkpoint": str(newest),
        "steps": trainer.done,
        "resumed_from": trainer.start,
        "skipped_steps": trainer.skipped,
        "metrics": last,
        "images_per_second": trainer.images_per_second,
        "seconds": trainer.steps_seconds,
        "memory": peak(trainer.where.device),
    }


def finish(trainer: Trainer, dataset: DataSet, environment: dict[str, Any]) -> Report:
    """Score the finished run by kNN where there are labels, by its features where there are none."""
    folder = trainer.run.folder
    # A cast, for timm's models are no subclass.
    encoder = cast(Encoder, trainer.method.get_submodule(trainer.method.evaluated))
    unlabelled = dataset.classes is None or len(dataset.classes) < 2
    parts = _sample(trainer.split) if unlabelled else trial(dataset, None)
    start = initial(trainer.recipe, trainer.about, folder, trainer.talk)
    seen = Pictures(trainer.recipe, encoder, dataset, parts, trainer.where, trainer.talk, start)
    document = {**outcome(trainer), "environment": environment}
    if unlabelled:
        materials = seen.materials()
        reading = collapse(materials)
        finished(trainer.run.pictures, seen, materials)
        document["metrics"].update(reading)
        lines = [
            f"features: spread {reading['feature_spread']:.2f} "
            f"(random-init {reading['feature_spread_random_init']:.2f}), "
            f"RankMe {reading['rank_me']:.1f} (random-init {reading['rank_me_random_init']:.1f})",
            f"look: {trainer.run.pictures / 'neighbors.png'} has pictures beside the nearest to them",
            f"run: {folder}",
            f"for a score: clctl knn-eval {quote(str(folder))} --data LABELLED_FOLDER",
        ]
    else:
        bench = seen.bench()
        result, common = evaluate(bench, judge(Neighbours()))
        model = Path(document["checkpoint"]) / checkpoint.MODEL
        kept = {
            "schema": "clctl/knn-eval/1",
            **common,
            "checkpoint": {"path": str(model), "sha256": digest(model)},
        }
        record(trainer.run, bench, result, kept, Neighbours().slug)
        finished(trainer.run.pictures, seen, bench.materials)
        document["metrics"].update(result.metrics)
        document["top1_ci95"], document["baselines"] = common["top1_ci95"], common["baselines"]
        low, high = result.interval
        lines = [
            f"kNN top-1 on {parts.test.name}: {percent(result.metrics['top1'])} "
            f"(95 %: {percent(low)} to {percent(high)}, {len(parts.test)} images); "
            f"random-init {percent(common['baselines']['random_init'])}, "
            f"raw pixels {percent(common['baselines']['pixels'])}, "
            f"chance {percent(common['baselines']['chance'])}",
            f"run: {folder}",
            f"next: clctl linear-probe {quote(str(folder))}",
        ]
    if trainer.skipped:
        steps = ", ".join(f"{step:,}" for step in trainer.skipped)
        lines.append(f"left out, for something in it was not finite: step {steps}")
    document["summary"] = lines
    return Report(document, "\n".join(lines), str(folder), Exit.OK)


def _sample(split: Split) -> Trial:
    """Pictures without labels to read features from."""
    few = split.take(torch.arange(min(len(split), SAMPLE)))
    return Trial(None, None, few, f"the first {len(few)} images of {split.name}, without labels")


def stopped(trainer: Trainer, reason: str, exit: Exit) -> Report:
    """The state of a run that stopped early: saved, and the command that continues it."""
    run, share = trainer.run, percent(trainer.done / trainer.total)
    document = {**outcome(trainer), "status": "stopped", "reason": reason}
    text = (
        f"stopped by {reason} at step {trainer.done:,} of {trainer.total:,} ({share}), saved\n"
        f"continue: clctl pretrain {quote(str(run.folder))}"
    )
    return Report(document, text, str(run.folder), exit)
