"""clctl verify: whether a checkpoint is whole, finite, and of the encoder that its recipe says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clctl.commands._trained import fill
from clctl.console import Exit, Problem, Talk
from clctl.recipe.saved import from_resolved
from clctl.report.document import Report
from clctl.store import checkpoint, reading, reference, sums, tensors

SHOWN = 5  # names of tensors that are told; the document has all


def verify(ckpt: str, talk: Talk) -> Report:
    """Check the bytes, numbers and names of a checkpoint, or of all that a run has.

    Exit.CHECKPOINT where bytes are not what was written, Exit.GATE where they are and the weights
    are not finite or not the encoder's.

    Raises:
        Problem: Exit.CHECKPOINT if there is nothing to check.
    """
    found = [_checked(place, talk) for place in _places(ckpt)]
    damaged = any(one["damaged"] for one in found)
    bad = any(one["not_finite"] or one["mismatch"] for one in found)
    exit = Exit.CHECKPOINT if damaged else Exit.GATE if bad else Exit.OK
    verdict = {Exit.CHECKPOINT: "damaged", Exit.GATE: "wrong"}.get(exit, "whole")
    document = {"schema": "clctl/verify/1", "path": ckpt, "verdict": verdict, "checked": found}
    lines = [f"{verdict}: {ckpt}", *(line for one in found for line in _lines(one))]
    return Report(document, "\n".join(lines), verdict, exit)


def _places(ckpt: str) -> list[Path]:
    """The checkpoints of a run, newest first; else what was named."""
    path = Path(ckpt)
    if checkpoint.CHECKPOINTS in reading.names(path):
        home = path / checkpoint.CHECKPOINTS
        found = [home / n for n in reversed(reading.names(home)) if n.startswith("step-")]
        if found:
            return found
    if not reading.exists(path):
        reference.find(ckpt)  # says what was likely meant
    return [path]


def _checked(place: Path, talk: Talk) -> dict[str, Any]:
    """What is found of one checkpoint, folder of an export, or file."""
    names = reading.names(place)
    files, damaged = {}, []
    try:
        if checkpoint.MANIFEST in names or (checkpoint.MODEL in names and sums.NAME not in names):
            files = dict.fromkeys(checkpoint.verify(place)["files"], True)
        elif sums.NAME in names:
            files = sums.check(place)
            damaged = [f"{n} is not what was written" for n, whole in files.items() if not whole]
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        damaged = [problem.message]
    one: dict[str, Any] = {
        "path": str(place),
        "files": files,
        "damaged": damaged,
        "tensors": None,
        "not_finite": [],
        "mismatch": None,
    }
    # Weights in another form, as ONNX's, have their sums alone.
    if damaged or (sums.NAME in names and checkpoint.MODEL not in names):
        return one
    try:
        return {**one, **_weights(place, talk)}
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        return {**one, "damaged": [problem.message]}


def _weights(place: Path, talk: Talk) -> dict[str, Any]:
    """Whether the tensors are finite, and those of the evaluated encoder all there."""
    found = reference.find(str(place), talk.say)
    held, _ = tensors.read(found.model)
    if "recipe" not in found.about:
        raise Problem(
            f"{found.model} does not say which recipe made it",
            Exit.CHECKPOINT,
            "checkpoint.no-recipe",
        )
    recipe = from_resolved(found.about["recipe"], str(found.model))
    encoder = recipe.encoder.build(recipe.views.size)
    mismatch = None
    try:
        fill(encoder, found)
    except Problem as problem:
        if problem.code != "checkpoint.mismatch":
            raise
        mismatch = problem.message
    return {"tensors": len(held), "not_finite": _not_finite(held), "mismatch": mismatch}


def _not_finite(held: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinity in them."""
    return [n for n, t in held.items() if t.is_floating_point() and not t.isfinite().all()]


def _lines(one: dict[str, Any]) -> list[str]:
    lines = [f"  {one['path']}", *(f"    DAMAGED   {reason}" for reason in one["damaged"])]
    if one["files"] and not one["damaged"]:
        lines.append(f"    sums      {len(one['files'])} files are what was written")
    elif not one["damaged"]:
        lines.append("    sums      none is known of a single file")
    if one["tensors"] is None:
        return lines
    bad = one["not_finite"]
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    lines.append(
        f"    NOT FINITE: {', '.join(bad[:SHOWN])}{more}"
        if bad
        else f"    numbers   all {one['tensors']} tensors are finite"
    )
    lines.append(f"    names     {one['mismatch'] or 'the encoder of the recipe, all of it'}")
    return lines
