"""clctl pretrain: train an encoder from a recipe, continue where a run stopped, score it."""

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from clctl import optim
from clctl.commands import _initial, _setup, _trained
from clctl.commands._announce import announce, describe, provenance, rehearse
from clctl.commands._finish import finish, outcome
from clctl.commands._stop import Stop, seconds
from clctl.commands._training import Trainer
from clctl.commands.views import draw
from clctl.console import Exit, Problem, Talk
from clctl.data.feed import Feed
from clctl.data.open import load
from clctl.recipe import identity
from clctl.recipe.read import find, read
from clctl.recipe.sections import Recipe
from clctl.report.document import Report, percent
from clctl.store import checkpoint, files
from clctl.store.run import INITIAL, Run

RESOLVED, RUN, REPORT = "recipe.resolved.json", "run.json", "report.json"


@dataclass(frozen=True)
class Order:
    """What was typed."""

    recipe: str
    overrides: tuple[str, ...] = ()
    data: str | None = None
    device: str = "auto"
    init_from: str | None = None
    max_time: str | None = None
    dry_run: bool = False
    fresh: bool = False
    download: bool = False
    out: Path | None = None


def pretrain(order: Order, talk: Talk) -> Report:
    """Do it, or continue it, or say that it is done."""
    limit = seconds(order.max_time) if order.max_time else None
    source, home = _source(order)
    recipe = read(source, order.overrides, order.data)
    where = _setup.machine(order.device, recipe.train.precision)
    dataset = load(recipe.data, recipe.views.size, talk.say, order.download)
    split = dataset.learnt(recipe.method.supervised)
    begun = _initial.first(order.init_from, recipe, home, order.download, talk)
    method = _setup.method(recipe, len(split), begun.fill)
    wants = (method.uses_labels, method.per_class)
    feed = Feed(split, recipe.train.batch_size, recipe.seed, where.device, *wants)
    part = identity.weights_part(recipe, dataset.fingerprint, begun.sha256)
    run = Run(_folder(order, home, recipe, identity.digest(part)))
    known = _same(run, part)
    channels_last = {"memory_format": torch.channels_last}
    method = method.to(where.device).to(**channels_last)  # type: ignore[call-overload]
    trainer = Trainer(
        recipe=recipe,
        method=method,
        optimizer=optim.build(recipe.optimizer, method),
        split=split,
        feed=feed,
        where=where,
        run=run,
        about=describe(recipe, dataset, method, begun.sha256),
        manifest=provenance(recipe, dataset, where, part),
        talk=talk,
        classes=len(dataset.classes or ()) if split.labels is not None else 0,
    )
    announce(trainer, dataset)
    if order.dry_run:
        return rehearse(trainer)
    _check_writable(run.folder)
    run.open()
    with run.lock():
        trainer.arm()
        kept = _initial.keep(run, begun, method.encoder)
        newest = checkpoint.newest(run.folder, talk.say)
        if newest is not None:
            _resume(trainer, newest)
        if trainer.start == trainer.total and (report := run.read_json(REPORT)) is not None:
            return _already(run, report, talk)
        if not known:
            _write_recipe(run, source, recipe)
        state = {
            "schema": "clctl/run/1",
            "identity": part,
            "initial": kept,
            **_launch(order, where),
        }
        run.write_json(RUN, {**state, "status": "running", "resumed_from": trainer.start})
        run.rewind(trainer.start)
        trainer.recall(run.records())
        if not (views := run.pictures / "views.png").exists():
            draw(recipe, split, dataset.classes, where.device, views)
        if trainer.start < trainer.total:
            try:
                with Stop(limit).listening() as stop:
                    reason = trainer.go(stop)
            except Problem as problem:
                run.write_json(RUN, {**state, "status": f"failed: {problem.code}"})
                raise
            if reason is not None:
                return _stopped(trainer, state, reason, stop.exit)
        report = finish(trainer, dataset, _setup.environment(where))
        run.write_json(REPORT, report.document)
        run.write_json(RUN, {**state, "status": "done", "resumed_from": trainer.start})
        return report


def _source(order: Order) -> tuple[Path, Path | None]:
    """The recipe's file, and the run folder where one was named instead."""
    folder = Path(order.recipe)
    if not folder.is_dir():
        return find(order.recipe), None
    if not (folder / RESOLVED).exists():
        raise Problem(
            f"{folder} is a folder, but not a run: it has no {RESOLVED}",
            Exit.RECIPE,
            "recipe.not-a-run",
            "name a recipe: clctl list recipes",
        )
    if order.fresh or order.out is not None:
        raise Problem(
            f"{folder} is a run to continue; --fresh and --out start another",
            Exit.USAGE,
            "usage.run-and-out",
            "name the recipe instead of the run",
        )
    return folder / RESOLVED, folder


def _folder(order: Order, home: Path | None, recipe: Recipe, digest: str) -> Path:
    """Where the run lies; with --fresh the first free sibling of that."""
    folder = home or order.out or Path("runs") / f"{recipe.name}-{digest}"
    if not order.fresh:
        return folder
    number = 2
    while (candidate := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return candidate if folder.exists() else folder


def _same(run: Run, part: dict[str, Any]) -> bool:
    """Whether the folder holds this run already.

    Raises:
        Problem: If it holds another run, or something that is no run.
    """
    state = run.read_json(RUN) if run.folder.is_dir() else None
    if state is None:
        if run.folder.exists() and (not run.folder.is_dir() or _foreign(run.folder)):
            raise Problem(
                f"{run.folder} exists and is not a run",
                Exit.EXISTS,
                "run.foreign-folder",
                "give an --out that is new or empty",
            )
        return False
    changed = identity.differences(state["identity"], part)
    if changed:
        raise Problem(
            f"{run.folder} is another run; what differs changes weights:\n    "
            + "\n    ".join(changed),
            Exit.EXISTS,
            "run.differs",
            f"--fresh or another --out starts anew; --init-from {run.folder} starts from its encoder",
        )
    return True


def _foreign(folder: Path) -> bool:
    """Whether something lies there that a start cut short would not have left behind."""
    ours = {".lock", "checkpoints", "pictures", "evaluations", "recipe.yaml", RESOLVED, INITIAL}
    return any(p.name not in ours and not p.name.startswith(".") for p in folder.iterdir())


def _check_writable(folder: Path) -> None:
    """Refuse before anything is made rather than at the first checkpoint."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise Problem(
            f"{folder} cannot be written: {nearest} is not a folder that you may write to",
            Exit.RESOURCES,
            "run.not-writable",
            "give an --out elsewhere",
        )


def _resume(trainer: Trainer, folder: Path) -> None:
    model, state, _, manifest = checkpoint.load(folder)
    _trained.restore(trainer.method, model, "the run's method")
    optim.restore(trainer.optimizer, trainer.method, state)
    trainer.start = trainer.done = manifest["step"]
    if trainer.start < trainer.total:
        trainer.talk.say(f"  continuing exactly at step {trainer.start:,} from {folder.name}")


def _write_recipe(run: Run, source: Path, recipe: Recipe) -> None:
    if source.suffix != ".json":
        files.write(run.folder / "recipe.yaml", source.read_bytes())
    run.write_json(RESOLVED, identity.resolved(recipe))


def _launch(order: Order, where: _setup.Machine) -> dict[str, Any]:
    return {
        "command": sys.argv[1:],
        "overrides": list(order.overrides),
        "data": order.data,
        "init_from": order.init_from and str(Path(order.init_from).absolute()),
        "device": where.words,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
    }


def _already(run: Run, report: dict[str, Any], talk: Talk) -> Report:
    talk.say(f"already done: {run.folder}; --fresh trains again in a new folder")
    text = "\n".join(report.get("summary", []))
    return Report(report, text, str(run.folder))


def _stopped(trainer: Trainer, state: dict[str, Any], reason: str, exit: Exit) -> Report:
    """The state of a run that stopped early: saved, and the command that continues it."""
    run, share = trainer.run, percent(trainer.done / trainer.total)
    run.write_json(RUN, {**state, "status": f"stopped by {reason}", "step": trainer.done})
    document = {
        **outcome(trainer),
        "status": "stopped",
        "reason": reason,
    }
    text = (
        f"stopped by {reason} at step {trainer.done:,} of {trainer.total:,} ({share}), saved\n"
        f"continue: clctl pretrain {run.folder}"
    )
    return Report(document, text, str(run.folder), exit)
