"""clctl linear-probe: the score of a checkpoint by logistic regression on frozen features."""

from typing import Any

import torch
from torch import Tensor

from clctl.commands._evaluation import Evaluate, run_evaluation
from clctl.commands._scoring import Bench, Material
from clctl.console import Exit, Problem, Talk
from clctl.evaluate.linear import PENALTIES, folds, linear
from clctl.report.document import Report


def linear_probe(order: Evaluate, talk: Talk) -> Report:
    """Score a checkpoint and its baselines by a linear classifier."""
    return run_evaluation(order, "linear-probe", "cached", judge, talk)


def judge(bench: Bench, material: Material) -> tuple[Tensor, dict[str, Any]]:
    """Probabilities of the test part, the penalty chosen without it."""
    parts, labels = bench.parts, bench.label(bench.parts.test).numpy()
    try:
        if material.train is None:
            how = "stratified 5-fold, penalty chosen on a tenth of each fold's train"
            probe = folds(material.test.numpy(), labels, classes=bench.classes)
        else:
            chooser, how = None, "penalty chosen on a held-out tenth of train"
            if material.choose is not None:
                assert parts.choose is not None
                chooser = material.choose.numpy(), bench.label(parts.choose).numpy()
                how = f"penalty chosen on {parts.choose.name}"
            train = material.train.numpy(), bench.label(parts.train).numpy()
            test = material.test.numpy()
            probe = linear(*train, test, classes=bench.classes, choose=chooser)
    except ValueError as error:
        raise Problem(
            f"a linear probe cannot be fitted: {error}",
            Exit.DATA,
            "data.too-few",
            "give more labelled pictures, or use clctl knn-eval",
        ) from error
    settled = {
        "how": how,
        "penalties": list(PENALTIES),
        "penalty": probe.penalty,
        "held_out_top1": {f"{p:g}": share for p, share in probe.held_out.items()},
        "converged": probe.converged,
        "features": "standardised",
    }
    return torch.from_numpy(probe.scores), settled
