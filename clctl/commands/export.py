"""clctl export: hand the encoder to another tool, and prove that it computes the same there."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, cast

import torch
from torch import Tensor

from clctl.commands import _setup
from clctl.commands._announce import describe
from clctl.commands._trained import Trained, open_checkpoint
from clctl.console import Exit, Problem, Talk
from clctl.data.open import load
from clctl.export import _folder, _scores, _subject
from clctl.export._subject import Subject
from clctl.images import DataSet
from clctl.method import Encoder
from clctl.recipe.read import find, read
from clctl.recipe.saved import with_data
from clctl.recipe.sections import Recipe
from clctl.report.document import Report
from clctl.rng import generator
from clctl.store import checkpoint, reading

TOLERANCE = 1e-3  # of features, relative to their largest value
PICTURES = 8
VERSIONS = ("clctl", "torch", "torchvision", "python")


@dataclass(frozen=True)
class Order:
    """What was typed.

    Attributes:
        init: A recipe whose untrained weights are written; then there is no ckpt.
    """

    ckpt: str | None
    to: str
    verify: bool = False
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    out: Path | None = None
    init: str | None = None


@dataclass(frozen=True)
class _Source:
    """Whose encoder is handed over, what the report says of it, and the folder for exports."""

    recipe: Recipe
    subject: Subject
    facts: dict[str, Any]
    home: Path


@torch.no_grad()
def export(order: Order, talk: Talk) -> Report:
    """Write the encoder for another tool; with `verify`, compare both sides on pictures."""
    target = _subject.module(order.to)
    source = _source(order, talk)
    subject = source.subject
    _subject.admit(order.to, subject)
    pictures = _pictures(order, source.recipe, talk) if order.verify or order.data else None
    folder = _folder.write(order.to, subject, order.out or source.home)
    path = folder / target.LOADED
    paste = target.paste(subject, path)
    document: dict[str, Any] = {
        "schema": "clctl/export/1",
        "target": order.to,
        "path": str(path),
        "folder": str(folder),
        "files": {name: reading.digest(folder / name) for name in reading.names(folder)},
        "checkpoint": source.facts,
        "paste": paste,
    }
    lines, exit = [f"{order.to}: {path}"], Exit.OK
    beside = [name for name in document["files"] if folder / name != path]
    lines.append(f"  beside    {', '.join(beside)}")
    if pictures is not None:
        largest = float(subject.encoder(pictures).abs().max())
        difference = _subject.verify(order.to, folder, subject, pictures)
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


def _source(order: Order, talk: Talk) -> _Source:
    if order.ckpt is not None and order.init is None:
        return _of_checkpoint(open_checkpoint(order.ckpt, talk))
    if order.init is not None and order.ckpt is None:
        if order.out is None:
            raise Problem(
                "--init has no run whose exports/ to write into",
                Exit.USAGE,
                "usage.no-out",
                f"clctl export --init {quote(order.init)} --to {order.to} -o DIR",
            )
        return _untrained(read(find(order.init), (), order.data), order.out)
    raise Problem(
        "export takes a checkpoint, or --init with a recipe, and not both",
        Exit.USAGE,
        "usage.what-to-export",
        f"clctl export runs/NAME --to {order.to}",
    )


def _of_checkpoint(trained: Trained) -> _Source:
    found = trained.found
    home = found.run or found.model.parent  # beside the file where there is no run
    manifest = {} if found.checkpoint is None else checkpoint.verify(found.checkpoint)
    environment = manifest.get("environment", {})
    versions = {name: environment[name] for name in VERSIONS if name in environment}
    subject = _handed_over(
        trained.recipe,
        trained.encoder,
        found.about,
        versions or {"clctl": str(found.about.get("clctl"))},
        _scores.rows(home / "evaluations", found.sha256),
    )
    facts = {"path": str(found.model), "sha256": found.sha256}
    return _Source(trained.recipe, subject, facts, home / "exports")


def _untrained(recipe: Recipe, home: Path) -> _Source:
    """The encoder of step 0, as a run of the recipe would start it."""
    if getattr(recipe.encoder, "weights", None) is not None:  # these are not loaded
        drawn = recipe.encoder.model_copy(update={"weights": None})
        recipe = recipe.model_copy(update={"encoder": drawn})
    method = _setup.method(recipe)
    encoder = cast(Encoder, method.get_submodule(method.evaluated).eval())
    environment = _setup.environment(_setup.machine("cpu"))
    unread = DataSet(recipe.data.name, {}, None, "", "")  # the data need not be there
    about = {**describe(recipe, unread, method, None), "step": 0}
    versions = {name: environment[name] for name in VERSIONS}
    subject = _handed_over(recipe, encoder, about, versions, ())
    return _Source(recipe, subject, {"init": recipe.name}, home)


def _handed_over(
    recipe: Recipe,
    encoder: Encoder,
    about: dict[str, Any],
    versions: dict[str, str],
    scores: tuple[_scores.Row, ...],
) -> Subject:
    views = recipe.views
    chosen = recipe.encoder.model_dump(exclude_defaults=True, exclude={"name", "weights"})
    return Subject(
        name=recipe.name,
        architecture=recipe.encoder.name,
        facts={**chosen, **recipe.encoder.facts(views.size)},
        encoder=encoder,
        size=views.size,
        mean=views.mean,
        std=views.std,
        about=_without_places(about),
        scores=scores,
        versions=versions,
    )


def _without_places(about: dict[str, Any]) -> dict[str, Any]:
    """The same with no more of a path in the recipe than its last part: others will read it."""
    recipe = about["recipe"]
    named = {"data": "path", "encoder": "weights"}
    cut = {
        section: {**recipe[section], key: Path(recipe[section][key]).name}
        for section, key in named.items()
        if recipe.get(section, {}).get(key) is not None
    }
    return {**about, "recipe": {**recipe, **cut}}


@torch.no_grad()
def _pictures(order: Order, own: Recipe, talk: Talk) -> Tensor:
    """A few prepared pictures of the data that the checkpoint was trained on, or of --data.

    The data may have stayed behind on another machine: then, unless it was asked for, noise
    through the same normalisation serves, and the log says so.
    """
    recipe = own if order.data is None else with_data(own, order.data)
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
