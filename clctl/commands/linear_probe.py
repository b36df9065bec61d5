"""clctl linear-probe: the score of a checkpoint by a linear classifier on frozen features."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from clctl.commands._evaluation import Evaluate, concluded, open_subject
from clctl.commands._gate import TOP, gate
from clctl.commands._labelled import Labelled, labelled_train
from clctl.commands._pictures import Pictures, seen
from clctl.commands._repeats import Repeats, evaluate_repeats
from clctl.commands._scoring import Bench, Judge, Verdict
from clctl.console import Exit, Problem, Talk
from clctl.evaluate.features import frozen
from clctl.evaluate.linear import FOLDS, PENALTIES, folds, linear
from clctl.evaluate.sgd_probe import RATES, sgd
from clctl.evaluate.subset import held_out
from clctl.report.document import Report

BATCH = 256  # views of a batch of the sgd protocol


def linear_probe(
    order: Evaluate, protocol: str, epochs: int, wanted: Repeats, talk: Talk
) -> Report:
    """Score a checkpoint and its baselines by a linear classifier.

    Args:
        protocol: "cached" or "sgd".
        epochs: Of sgd.
    """
    if protocol not in ("cached", "sgd") or epochs < 1:
        raise Problem(
            f"--protocol {protocol} --epochs {epochs}: the protocol is cached or sgd, and sgd "
            "takes one epoch or more",
            Exit.USAGE,
            "usage.linear-probe",
            "--protocol sgd --epochs 100",
        )
    threshold = gate(order.fail_under, TOP)
    spares = FOLDS if protocol == "cached" and wanted.fractions == (1.0,) else 0
    subject = open_subject(order, "linear-probe", talk, spares)
    bench, pictures = subject.bench, subject.pictures
    judge_of, rivals, slug = judge, bench.rivals, "cached"
    if protocol == "sgd":
        labelled_train(pictures, bench)  # refuses what cannot be trained on
        assert pictures is not None
        judge_of = partial(_by_sgd, pictures, epochs)
        rivals = tuple(name for name in rivals if name != "pixels")
        slug = f"sgd-e{epochs}"
    result, common = evaluate_repeats(bench, judge_of, wanted, rivals)
    slug += wanted.slug
    return concluded(order, "linear-probe", slug, subject, result, common, threshold)


def judge(seed: int) -> Judge:
    """The cached protocol; the seed draws what is held out."""

    def verdict(bench: Bench, name: str) -> Verdict:
        try:
            return _fitted(bench, name, seed)
        except ValueError as error:
            raise Problem(
                f"a linear probe cannot be fitted: {error}",
                Exit.DATA,
                "data.too-few",
                "give more labelled pictures, or use clctl knn-eval",
            ) from error

    return verdict


def _fitted(bench: Bench, name: str, seed: int) -> Verdict:
    """Probabilities of the test part, the penalty chosen without it."""
    material, labels, chooser = bench.materials[name](), bench.test.labels, None
    common = {"classes": len(bench.classes), "seed": seed, "device": bench.device}
    if material.train is None or bench.train is None:
        how, on = "stratified 5-fold", "a tenth of each fold's train"
        probe = folds(material.test, labels, **common)
    else:
        how, on = "train against test", "a held-out tenth of train"
        if material.choose is not None and bench.choose is not None:
            chooser, on = (material.choose, bench.choose.labels), bench.choose.name
        train = material.train, bench.train.labels
        probe = linear(*train, material.test, choose=chooser, **common)
    settled = {
        "name": "cached",
        "how": how,
        "chosen_on": on,
        "penalties": list(PENALTIES),
        "penalty": probe.penalty,
        "held_out_top1": {f"{p:g}": share for p, share in probe.held_out.items()},
        "converged": probe.converged,
        "features": "standardised",
    }
    return Verdict(probe.scores.cpu(), settled, {})


def _by_sgd(pictures: Pictures, epochs: int, seed: int) -> Judge:
    """The papers' protocol: views anew in every epoch, a grid of learning rates at once."""

    def verdict(bench: Bench, name: str) -> Verdict:
        train, device = bench.train, pictures.where.device
        material = bench.materials[name]()
        assert train is not None
        assert material.train is not None
        left = bench
        if material.choose is not None and bench.choose is not None:
            held, on = (material.choose, bench.choose.labels), bench.choose.name
        else:
            fit, out = _tenth(train.labels, seed)
            held, on = (material.train[out], train.labels[out]), "a held-out tenth of train"
            left = bench.reduced(fit)
        batches = labelled_train(pictures, left)(BATCH, seed)
        encoder = seen(pictures.encoders()[name](), pictures.layers)
        label = f"sgd probe of {name.replace('_', '-')}, epochs of {len(batches.split):,} views"
        with bench.talk.task(label, epochs) as tick:

            def epochs_of(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
                tick(epoch, "")
                return _features(encoder, batches, epoch)

            graded = sgd(
                epochs_of,
                (held[0].to(device), held[1].to(device)),
                material.test.to(device),
                classes=len(bench.classes),
                batch=batches.batch,
                epochs=epochs,
                seed=seed,
            )
        settled = {
            "name": "sgd",
            "how": "train against test, views anew in every epoch",
            "chosen_on": on,
            "epochs": epochs,
            "batch": batches.batch,
            "rates": list(RATES),
            "rate": graded.rate,
            "held_out_top1": {f"{r:g}": share for r, share in graded.held_out.items()},
            "momentum": 0.9,
            "views": batches.views.groups[0].model_dump(mode="json", exclude_defaults=True),
        }
        return Verdict(graded.scores, settled, {})

    return verdict


def _tenth(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    try:
        return held_out(labels, seed)
    except ValueError as error:
        raise Problem(
            f"no learning rate can be chosen: {error}",
            Exit.DATA,
            "data.too-few",
            "give more labelled pictures",
        ) from error


def _features(
    encoder: torch.nn.Module, batches: Labelled, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels of the views of one epoch."""
    for step in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
        x, y = batches(step)
        with frozen(encoder):
            features = encoder(x.contiguous(memory_format=torch.channels_last)).float()
        yield features, y
