"""clctl export: hand the encoder to another tool, and prove that it computes the same there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clctl.commands import _setup
from clctl.commands._trained import Trained, open_checkpoint
from clctl.console import Exit, Problem, Talk
from clctl.data.open import load
from clctl.export import _subject
from clctl.recipe.saved import with_data
from clctl.report.document import Report
from clctl.rng import generator
from clctl.store import files

TOLERANCE = 1e-3  # of features, relative to their largest value
PICTURES = 8


@dataclass(frozen=True)
class Order:
    """What was typed."""

    ckpt: str
    to: str
    verify: bool = False
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    out: Path | None = None


@torch.no_grad()
def export(order: Order, talk: Talk) -> Report:
    """Write the encoder for another tool; with `verify`, compare both sides on pictures."""
    target = _subject.module(order.to)
    trained = open_checkpoint(order.ckpt, talk)
    subject = _handed_over(trained)
    _subject.admit(order.to, subject)
    folder = order.out or _home(trained) / "exports"
    pictures = _pictures(order, trained, talk) if order.verify or order.data else None
    files.make(folder)
    path = target.write(subject, folder)
    paste = target.paste(subject, path)
    document: dict[str, Any] = {
        "schema": "clctl/export/1",
        "target": order.to,
        "path": str(path),
        "checkpoint": {"path": str(trained.found.model), "sha256": trained.found.sha256},
        "paste": paste,
    }
    lines, exit = [f"{order.to}: {path}"], Exit.OK
    if pictures is not None:
        largest = float(subject.encoder(pictures).abs().max())
        difference = _subject.verify(order.to, path, subject, pictures)
        met = difference <= TOLERANCE * max(largest, 1.0)
        exit = Exit.OK if met else Exit.GATE
        document["verify"] = {
            "pictures": len(pictures),
            "largest_difference": difference,
            "largest_feature": largest,
            "met": met,
        }
        word = "agree" if met else "DIFFER"
        lines.append(
            f"  verify    both sides {word}: largest difference {difference:.2g} over "
            f"{len(pictures)} pictures, features up to {largest:.3g}"
        )
    return Report(document, "\n".join([*lines, "", paste.rstrip()]), str(path), exit)


def _handed_over(trained: Trained) -> _subject.Subject:
    recipe, views = trained.recipe, trained.recipe.views
    chosen = recipe.encoder.model_dump(exclude_defaults=True, exclude={"name"})
    return _subject.Subject(
        name=recipe.name,
        architecture=recipe.encoder.name,
        facts={**chosen, **recipe.encoder.facts(views.size)},
        encoder=trained.encoder,
        size=views.size,
        mean=views.mean,
        std=views.std,
        about=trained.found.about,
    )


def _home(trained: Trained) -> Path:
    """The run's folder; beside the file where there is no run."""
    return trained.found.run or trained.found.model.parent


@torch.no_grad()
def _pictures(order: Order, trained: Trained, talk: Talk) -> Tensor:
    """A few prepared pictures of the data that the checkpoint was trained on, or of --data.

    The data may have stayed behind on another machine: then, unless it was asked for, noise
    through the same normalisation serves, and the log says so.
    """
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    size = recipe.views.size
    try:
        dataset = load(recipe.data, size, talk.say)
    except Problem as problem:
        if order.data is not None:
            raise
        talk.say(f"  verify    on noise, for the run's data cannot be read: {problem.message}")
        return torch.randn(PICTURES, 3, size, size, generator=generator(0, "verify"))
    part = order.split or next(iter(dataset.splits))
    if part not in dataset.splits:
        raise Problem(
            f"{dataset.name} has no split {part}; it has {', '.join(dataset.splits)}",
            Exit.DATA,
            "data.no-such-split",
            f"--split {next(iter(dataset.splits))}",
        )
    images = dataset.splits[part].images
    few = images.take(torch.arange(min(PICTURES, len(images))))
    return _setup.preparation(recipe.views)(few).contiguous()
