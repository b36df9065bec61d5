"""What a run is, said and recorded before it begins; and its rehearsal."""

import time
from typing import Any

import clctl
from clctl import optim
from clctl.commands import _setup
from clctl.commands._training import Trainer
from clctl.distributed import world
from clctl.engine import train
from clctl.images import DataSet
from clctl.method import Method
from clctl.recipe import identity
from clctl.recipe.sections import Recipe
from clctl.report.document import Report, duration


def describe(recipe: Recipe, dataset: DataSet, method: Method, init: str | None) -> dict[str, Any]:
    """What goes into the model file: how to rebuild, prepare and cite it; no time, no machine."""
    views = recipe.views
    return {
        "schema": "clctl/model/1",
        "clctl": clctl.__version__,
        "recipe": identity.resolved(recipe),
        "evaluated": method.evaluated,
        "encoder": {
            "name": recipe.encoder.name,
            "width": method.encoder.width,
            **recipe.encoder.facts(views.size),
        },
        "preprocessing": {
            "size": views.size,
            "crop": "centre square",
            "interpolation": "bilinear, antialiased",
            "mean": list(views.mean),
            "std": list(views.std),
        },
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "init_from": init,
    }


def provenance(
    recipe: Recipe, dataset: DataSet, where: _setup.Machine, part: dict[str, Any]
) -> dict[str, Any]:
    """What goes into the manifest: where and with what a checkpoint was made."""
    return {
        "recipe_sha256": identity.digest(part),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "images": len(dataset.learnt(recipe.method.supervised)),
        },
        "environment": _setup.environment(where),
        "global_batch": recipe.train.batch_size,
    }


def history(trainer: Trainer) -> dict[str, Any]:
    """What the log does not tell and the report page shows, for run.json.

    "first" holds the guard's readings of step 0, "resumes" the steps at which the run was continued,
    this start among them.
    """
    known, start = (trainer.run.read_json("run.json") or {}).get("resumes", []), trainer.start
    now = [start] if 0 < start < trainer.total else []
    return {"first": trainer.guard.first, "resumes": [*(s for s in known if s < start), *now]}


def announce(trainer: Trainer, dataset: DataSet) -> None:
    """What will run, before it does."""
    recipe, method, say = trainer.recipe, trainer.method, trainer.talk.say
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    heads = trained - _setup.parameters(method.encoder)
    facts = ", ".join(f"{k} {v}" for k, v in recipe.encoder.facts(recipe.views.size).items())
    images = ", ".join(f"{len(part):,} {name}" for name, part in dataset.splits.items())
    if all(trainer.split is not part for part in dataset.splits.values()):
        images = f"{len(trainer.split):,} to learn from, labelled or not; {images}"
    peak = optim.peak(recipe.optimizer, recipe.train.batch_size)
    canvas = tuple(trainer.split.images.canvas.shape[1:])
    say(f"{recipe.name}: {recipe.method.name} on {dataset.name} -> {trainer.run.folder}")
    say(
        f"  encoder   {recipe.encoder.name} ({facts}), {method.encoder.width} features, "
        f"{_setup.parameters(method.encoder):,} parameters; heads {heads:,}"
    )
    if settled := method.facts():
        say("  method    " + ", ".join(f"{k} {v}" for k, v in settled.items()))
    say(f"  images    {images}; stored {canvas[2]}x{canvas[1]}, seen {recipe.views.size} px")
    say(f"  labels    {dataset.labels_from.removeprefix('labels are ')}")
    for note in dataset.notes:
        say(f"  note      {note}")
    say(
        f"  steps     {trainer.total:,} = {recipe.train.epochs} epochs of "
        f"{trainer.feed.per_epoch}, batch {recipe.train.batch_size}{_rest(trainer)}"
    )
    say(
        f"  rate      {recipe.optimizer.name}, lr {recipe.optimizer.lr:g} per 256 images: "
        f"{peak:g} at its peak"
    )
    if world()[1] > 1:
        share = recipe.train.batch_size // world()[1]
        say(f"  ranks     {world()[1]}, each with {share} images of every batch")
    idle = f" ({trainer.where.note})" if trainer.where.note else ""
    say(f"  device    {trainer.where.words}{idle}")
    if recipe.train.compile:
        say("  compiled  in the first step, which takes up to a minute or two")
    say("  Ctrl-C is safe: it saves, and the same command continues")


def _rest(trainer: Trainer) -> str:
    """How many images of an epoch fill no batch, in words."""
    left = len(trainer.split) - trainer.feed.per_epoch * trainer.recipe.train.batch_size
    who = "one image sits" if left == 1 else f"{left} images sit"
    return f"; {who} out each epoch, others every time" if left else ""


def rehearse(trainer: Trainer) -> Report:
    """A few steps in memory: what a run would take. Nothing is written."""
    begun, count = time.perf_counter(), 0
    for tick in train(trainer.plan, trainer.method, trainer.optimizer):
        tick.fetch()
        count = tick.step
        if count == 1:
            begun = time.perf_counter()  # the first step warms caches up
        if count == 6:
            break
    step = (time.perf_counter() - begun) / max(count - 1, 1)
    document = {
        "schema": "clctl/pretrain/1",
        "status": "dry run",
        "run": str(trainer.run.folder),
        "steps": trainer.total,
        "seconds_per_step": step,
        "seconds": step * trainer.total,
    }
    text = (
        f"dry run: the recipe, the data and {count} steps are fine; nothing was written\n"
        f"{trainer.total:,} steps would take {duration(step * trainer.total)} here, "
        f"evaluation and checkpoints apart"
    )
    return Report(document, text, str(trainer.run.folder))
