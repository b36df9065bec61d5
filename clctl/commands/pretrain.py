"""clctl pretrain: train an encoder from a recipe, continue where a run stopped, score it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clctl.commands import _changed, _initial, _memory, _numerics, _ranks, _setup
from clctl.commands._announce import announce, describe, history, provenance, rehearse
from clctl.commands._changed import REPORT, RESOLVED, RUN
from clctl.commands._finish import finish, stopped
from clctl.commands._launch import again, check_writable, launch, parts
from clctl.commands._stop import Signalled, Stop, seconds
from clctl.commands._training import Trainer
from clctl.console import Exit, Problem, Talk
from clctl.data.open import load
from clctl.distributed import wait, world
from clctl.images import DataSet
from clctl.recipe import identity
from clctl.recipe.read import find, read
from clctl.recipe.sections import Recipe
from clctl.report.document import Report
from clctl.store import checkpoint, files
from clctl.store.run import Run


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
    on_nan: str = "stop"


def pretrain(order: Order, talk: Talk) -> Report:
    """Do it, or continue it, or say that it is done."""
    rollback = _numerics.rollback(order.on_nan)
    limit = seconds(order.max_time) if order.max_time else None
    with Stop(limit, twice=5.0 if world()[1] > 1 else 0.0).listening() as stop:
        source, home = _source(order)
        recipe = read(source, order.overrides, order.data)
        where = _setup.machine(order.device, recipe.train.precision)
        try:
            return _pretrain(order, talk, source, home, recipe, where, stop, rollback)
        except _memory.Short as short:
            used, said = short.used, short.said
        # Nothing holds the run any more, and its memory is free to try smaller batches with.
        raise _memory.told(used, said, recipe, where, talk)


def _pretrain(
    order: Order,
    talk: Talk,
    source: Path,
    home: Path | None,
    recipe: Recipe,
    where: _setup.Machine,
    stop: Stop,
    rollback: bool,
) -> Report:
    opened = partial(load, recipe.data, recipe.views.size, talk.say, order.download)
    dataset = _ranks.in_turn(opened, talk)
    split = dataset.learnt(recipe.method.supervised)
    begun = _initial.first(order.init_from, recipe, home, order.download, talk)
    with _memory.watched(where):
        method, feed, optimizer = parts(recipe, split, where, begun.fill)
    part = identity.weights_part(recipe, dataset.fingerprint, begun.sha256)
    run = Run(_folder(order, home, recipe, identity.digest(part)))
    named = str(home / RESOLVED) if home else order.recipe
    options = {"--data": order.data, "--out": order.out, "--device": order.device}
    words = again(recipe, named, order.overrides, options)
    known = _changed.same(run, part, dataset, words)
    if known is None and home is None and order.out is None and not order.fresh:
        _changed.left(run, recipe, part, dataset, words)
    trainer = Trainer(
        recipe=recipe,
        method=method,
        optimizer=optimizer,
        split=split,
        feed=feed,
        where=where,
        run=run,
        about=describe(recipe, dataset, method, begun.sha256),
        manifest=provenance(recipe, dataset, where, part),
        talk=talk,
        classes=dataset.classes or () if split.labels is not None else (),
    )
    announce(trainer, dataset)
    if order.dry_run:
        with _memory.watched(where):
            return rehearse(trainer)
    if world()[0] > 0:
        files.muted = run.folder.absolute()
    check_writable(run.folder)
    run.open()
    with run.lock(), closing(trainer.sinks):
        old = _changed.same(run, part, dataset, words)  # another launch may have begun it since
        kept = _start(trainer, part, begun, old)
        if trainer.start == trainer.total and (report := _changed.reported(run, talk)) is not None:
            return _already(run, report, talk)
        state = {
            "schema": "clctl/run/1",
            "identity": part,
            "initial": kept,
            **history(trainer),
            "files": _changed.keep(run, old, source, recipe, dataset, talk),
            **launch(order.overrides, order.data, order.init_from, trainer.where),
        }
        _note(trainer, state, "running", resumed_from=trainer.start)
        with _noted(trainer, state, stop):
            return _run(trainer, state, dataset, stop, rollback, begun)


def _start(
    trainer: Trainer, part: dict[str, Any], begun: _initial.First, old: dict[str, Any] | None
) -> str | None:
    """Bring the trainer to where the run stands: its newest checkpoint, or step 0.

    Returns:
        sha256 of the run's copy of the weights that it started from, None for random ones.
    """
    run, talk = trainer.run, trainer.talk
    newest = _ranks.told_by_first("start", lambda: checkpoint.newest(run.folder, talk.say))
    if newest is not None:
        _changed.settle(trainer, checkpoint.read(newest), part)
    with _memory.watched(trainer.where):
        trainer.arm()
    kept = _initial.keep(run, begun, trainer.method.encoder, talk)
    manifest = None if newest is None else _resume(trainer, newest)
    _changed.rewind(trainer, old, manifest)
    trainer.skipped += (run.read_json(RUN) or {}).get("skipped_steps", [])
    trainer.skipped = sorted({*trainer.skipped})
    return kept


@contextmanager
def _noted(trainer: Trainer, state: dict[str, Any], stop: Stop) -> Iterator[None]:
    """Write into run.json why the run did not come to its end."""
    try:
        yield
    except Signalled:
        _note(trainer, state, f"stopped by {stop.reason}", step=trainer.done)
        raise
    except (Problem, _memory.Short) as problem:
        with suppress(Problem):  # the first one is the one to tell
            _note(trainer, state, f"failed: {problem.code}")
        raise


def _run(
    trainer: Trainer,
    state: dict[str, Any],
    dataset: DataSet,
    stop: Stop,
    rollback: bool,
    begun: _initial.First,
) -> Report:
    """Train what is left to train, score it, and write that down."""
    run, recipe, split, where = trainer.run, trainer.recipe, trainer.split, trainer.where
    wait()  # for the log to be as the first rank left it
    trainer.recall(run.records())
    if trainer.start < trainer.total:
        fresh = partial(_setup.method, recipe, len(split), begun.fill)
        note = partial(_note, trainer, state, "running", resumed_from=trainer.start)
        with stop.steps(), _memory.watched(where):
            reason = _numerics.pretraining(trainer, stop, rollback, fresh, note)
        if reason is not None:
            _note(trainer, state, f"stopped by {reason}", step=trainer.done)
            return stopped(trainer, reason, stop.exit)
        stop.leave()
    run.check()
    with _memory.scoring(run.folder):
        report = finish(trainer, dataset, _setup.environment(where))
    run.write_json(REPORT, report.document)
    _note(trainer, state, "done", resumed_from=trainer.start)
    return report


def _note(trainer: Trainer, state: dict[str, Any], status: str, **more: object) -> None:
    """Write run.json."""
    skipped = {"skipped_steps": trainer.skipped} if trainer.skipped else {}
    trainer.run.write_json(RUN, {**state, "status": status, **more, **skipped})


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
    _changed.whole(Run(folder))
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


def _resume(trainer: Trainer, folder: Path) -> dict[str, Any]:
    manifest = trainer.restore(folder)
    trainer.start, trainer.skipped = trainer.done, list(manifest.get("skipped_steps", []))
    if trainer.start < trainer.total:
        trainer.talk.say(f"  continuing exactly at step {trainer.start:,} from {folder.name}")
    return manifest


def _already(run: Run, report: dict[str, Any], talk: Talk) -> Report:
    talk.say(f"already done: {run.folder}; --fresh trains again in a new folder")
    if (state := run.read_json(RUN)) is not None and state["status"] != "done":
        run.write_json(RUN, {**state, "status": "done"})  # killed between the two documents
    text = "\n".join(report.get("summary", []))
    return Report(report, text, str(run.folder))
