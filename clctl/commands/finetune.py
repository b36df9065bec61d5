"""clctl finetune: the score of a checkpoint as a start for training with labels."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from clctl.commands._evaluation import Evaluate, concluded, open_subject
from clctl.commands._gate import TOP, gate
from clctl.commands._labelled import labelled_train
from clctl.commands._pictures import Pictures
from clctl.commands._repeats import Repeats, evaluate_repeats
from clctl.commands._scoring import Bench, Judge, Verdict
from clctl.commands._setup import preparation
from clctl.console import Exit, Problem, Talk
from clctl.encoders._vit import ViT
from clctl.evaluate.features import chunks
from clctl.evaluate.finetune import Tuning, probabilities
from clctl.evaluate.finetune import finetune as tune
from clctl.report.document import Report

BATCH, FEWEST = 64, 300  # images of a batch; steps, however few the labels


@dataclass(frozen=True)
class Training:
    """What was typed of the training.

    Attributes:
        epochs: Over the labelled images; at least FEWEST steps.
        blocks: How many of the last blocks are trained; None for all weights.
        lr: Highest rate; None for 1e-3, and 1e-2 where the head alone is trained.
        layer_decay: None for 0.75 in a ViT and 1 in other encoders; from random weights it is 1, for
            there is nothing to preserve.
    """

    epochs: int = 30
    blocks: int | None = None
    lr: float | None = None
    layer_decay: float | None = None


def finetune(order: Evaluate, training: Training, wanted: Repeats, talk: Talk) -> Report:
    """Fine-tune a checkpoint, and the same encoder from random weights as its baseline."""
    tuning = _tuning(training)
    threshold = gate(order.fail_under, TOP)
    subject = open_subject(order, "finetune", talk)
    pictures, bench = subject.pictures, subject.bench
    labelled_train(pictures, bench)  # refuses what cannot be trained on
    assert pictures is not None
    if training.layer_decay is None and not isinstance(pictures.encoder, ViT):
        tuning = replace(tuning, layer_decay=1.0)
    rivals = tuple(name for name in bench.rivals if name != "pixels")

    def judge_of(seed: int) -> Judge:
        return lambda bench, name: _tuned(pictures, bench, name, training, tuning, seed)

    result, common = evaluate_repeats(bench, judge_of, wanted, rivals)
    depth = "all" if training.blocks is None else f"b{training.blocks}"
    protocol = f"{depth}-e{training.epochs}{wanted.slug}"
    return concluded(order, "finetune", protocol, subject, result, common, threshold)


def _tuning(training: Training) -> Tuning:
    """What was typed, with what was left out.

    Raises:
        Problem: If a number is out of range.
    """
    lr, decay = training.lr, training.layer_decay
    try:
        if training.epochs < 1:
            raise ValueError(f"epochs cannot be {training.epochs}")
        return Tuning(
            lr=lr if lr is not None else 1e-2 if training.blocks == 0 else Tuning.lr,
            layer_decay=Tuning.layer_decay if decay is None else decay,
            blocks=training.blocks,
        )
    except ValueError as error:
        raise Problem(
            f"finetune: {error}", Exit.USAGE, "usage.finetune", "clctl finetune --help"
        ) from error


def _tuned(
    pictures: Pictures, bench: Bench, name: str, training: Training, tuning: Tuning, seed: int
) -> Verdict:
    """Train from one encoder, and judge the test part."""
    where = pictures.where
    batches = labelled_train(pictures, bench)(BATCH, seed)
    if name == "random_init":
        tuning = replace(tuning, layer_decay=1.0)
    steps = max(training.epochs * batches.per_epoch, FEWEST)
    encoder = pictures.encoders()[name]()
    label = f"fine-tuning {name.replace('_', '-')} on {len(batches.split):,} labels"
    try:
        with bench.talk.task(label, steps) as tick:
            tuned = tune(
                *(encoder, len(bench.classes), batches, steps, tuning),
                seed=seed,
                device=where.device,
                amp=where.amp,
                tick=lambda done, loss: tick(done, ""),
            )
    except ValueError as error:
        raise Problem(f"finetune: {error}", Exit.USAGE, "usage.finetune", "--blocks 1") from error
    ready = preparation(pictures.recipe.views)
    test = pictures.parts.test.images
    placed = (ready(chunk.to(where.device)) for chunk in chunks(test, 256))
    form = {"memory_format": torch.channels_last}
    votes = probabilities(tuned, (x.contiguous(**form) for x in placed))
    settled: dict[str, Any] = {
        "how": "a copy of the encoder and a linear head, trained on train; the last step is scored",
        "chosen_on": "nothing was chosen",
        "steps": steps,
        "batch": batches.batch,
        "optimizer": "adamw",
        "lr": tuning.lr,
        "layer_decay": tuning.layer_decay,
        "layer_decay_random_init": 1.0,
        "weight_decay": tuning.weight_decay,
        "blocks": tuning.blocks,
        "views": batches.views.groups[0].model_dump(mode="json", exclude_defaults=True),
    }
    return Verdict(votes, settled, {})
