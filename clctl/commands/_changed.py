"""What changed since a run began: its recipe, its data file by file, and where it runs."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clctl.commands import _setup
from clctl.commands._listing import FILES, differences, listing
from clctl.commands._training import Trainer
from clctl.console import Exit, Problem, Talk
from clctl.images import DataSet
from clctl.recipe import identity
from clctl.recipe.sections import Recipe
from clctl.report.document import duration
from clctl.store import checkpoint, documents, files, reading
from clctl.store.run import INITIAL, Run

RESOLVED, GIVEN, RUN, REPORT = "recipe.resolved.json", "recipe.yaml", "run.json", "report.json"
_EXACT = ("clctl", "torch", "system", "machine", "device")  # where they are equal, all bits are

State = dict[str, Any]


def same(run: Run, part: dict[str, Any], dataset: DataSet, again: Sequence[str]) -> State | None:
    """What run.json says, where the folder holds this run already; None where it holds none.

    Args:
        part: What changes weights, of this launch.
        again: A command of this launch that names the recipe and no folder.

    Raises:
        Problem: If it holds another run, or something that is no run.
    """
    state = run.read_json(RUN) if run.folder.is_dir() else None
    if state is None:
        if run.folder.exists() and (not run.folder.is_dir() or _foreign(run)):
            raise Problem(
                f"{run.folder} exists and is not a run",
                Exit.EXISTS,
                "run.foreign-folder",
                "give an --out that is new or empty",
            )
        return None
    changed = identity.changes(state["identity"], part)
    if changed:
        raise _differs(run, f"{run.folder} is another run", changed, dataset, again)
    return state


def left(
    run: Run, recipe: Recipe, part: dict[str, Any], dataset: DataSet, again: Sequence[str]
) -> None:
    """See that a run which the recipe names is not begun because another lost its data.

    A folder is named after recipe and data, so that one picture more names a new one.

    Raises:
        Problem: Exit.EXISTS if a run of this recipe was stopped, and its data has changed since.
    """
    for path in sorted(run.folder.parent.glob(f"{recipe.name}-*")):
        other, state = Run(path), None
        with suppress(Problem):  # a damaged one tells when it is asked for
            state = other.read_json(RUN)
        if state is None or state["status"] == "done" or not checkpoint.steps(path):
            continue
        changed = identity.changes(state["identity"], part)
        if [name for name, _, _ in changed] == ["data.fingerprint"]:
            what = f"{path} is not done, and its data has changed"
            raise _differs(other, what, changed, dataset, again)


def settle(trainer: Trainer, manifest: Mapping[str, Any], part: dict[str, Any]) -> None:
    """Make ready to go on from a checkpoint: say what changed, and keep its precision.

    bf16 and fp32 give other weights, so `precision: auto` is decided once, when a run begins.

    Raises:
        Problem: Exit.EXISTS if it was made with another recipe or other data (run.json is gone).
    """
    run, where = trainer.run, trainer.where
    if manifest.get("recipe_sha256") not in (None, identity.digest(part)):
        raise Problem(
            f"the checkpoints in {run.folder} are of another recipe or of other data",
            Exit.EXISTS,
            "run.differs",
            "--fresh or another --out starts anew",
        )
    before = manifest.get("environment", {}).get("precision", where.precision)
    if before != where.precision:
        trainer.talk.say(f"  precision {before}, as the run began; auto is {where.precision} here")
        trainer.where = replace(where, amp=torch.bfloat16 if before == "bf16" else None)
        environment = _setup.environment(trainer.where)
        trainer.manifest = {**trainer.manifest, "environment": environment}
    if trainer.total > manifest["step"]:
        words = since(run, manifest, trainer.manifest["environment"], trainer.recipe)
        if words is not None:
            trainer.talk.say(f"  {words}")


def keep(
    run: Run, old: State | None, source: Path, recipe: Recipe, dataset: DataSet, talk: Talk
) -> dict[str, str]:
    """Write recipe and list of files into a run that begins, or that has lost them.

    Returns:
        Name -> sha256 in hex, for run.json.
    """
    resolved = documents.encode(identity.resolved(recipe)) + b"\n"
    made = {RESOLVED: lambda: resolved, FILES: lambda: listing(dataset)}
    if source.suffix != ".json":
        made[GIVEN] = source.read_bytes
    sums = dict((old or {}).get("files", {}))
    for name, make in made.items():
        path = run.folder / name
        there = reading.exists(path)
        if old is not None and there and sums.get(name) in (None, reading.digest(path)):
            continue
        if old is not None and name in sums:
            talk.say(f"warning: {path} is {'damaged' if there else 'gone'}; it is written again")
        if (content := make()) is not None:
            sums[name] = files.write(path, content)
    return sums


def whole(run: Run) -> None:
    """See that the recipe in the run's folder is the one that was written there.

    Raises:
        Problem: Exit.CHECKPOINT if not.
    """
    state, path = run.read_json(RUN) or {}, run.folder / RESOLVED
    if state.get("files", {}).get(RESOLVED) not in (None, reading.digest(path)):
        raise Problem(
            f"{path} is damaged: its sha256 is not that of {RUN}",
            Exit.CHECKPOINT,
            "run.damaged",
            f"with the recipe that the run began with, --out {run.folder} writes it again",
        )


def since(
    run: Run, manifest: Mapping[str, Any], environment: Mapping[str, Any], recipe: Recipe
) -> str | None:
    """One line on what differs and leaves the run what it is; None where nothing does."""
    before = manifest.get("environment", {})
    words = [
        f"{key} {before[key]} -> {value}"
        for key, value in environment.items()
        if before.get(key, value) != value
    ]
    exact = all(before.get(key, environment[key]) == environment[key] for key in _EXACT)
    with suppress(Problem, ValueError):
        old = documents.parse(reading.content(run.folder / RESOLVED))
        now = identity.changes(old, identity.resolved(recipe))
        words += [f"{path} {was} -> {value}" for path, was, value in now]
    if not words:
        return None
    end = "" if exact else "; from here on the weights are no longer equal bit for bit"
    return f"changed since step {manifest['step']:,}: {', '.join(words)}{end}"


def lost(run: Run, state: State | None, start: int, recipe: Recipe) -> str | None:
    """What a launch did that ended without saving, by its lines of the log; None if it saved."""
    if state is None or state.get("status") != "running":
        return None
    every, records = recipe.report.log_every, run.after(start)
    if not records:
        return (
            f"the last launch was killed: up to {every} steps after step {start:,} are done again"
        )
    last = records[-1]
    done, rate = last["step"] - start, last.get("images_per_second")
    took = f", about {duration(done * recipe.train.batch_size / rate)} of work," if rate else ""
    return (
        f"the last launch was killed after step {last['step']:,}: "
        f"{done:,} steps{took} are done again"
    )


def rewind(trainer: Trainer, old: State | None, manifest: dict[str, Any] | None) -> None:
    """Take the log back to the step of the checkpoint, and say what has to be done again."""
    run, start = trainer.run, trainer.start
    if start < trainer.total and (words := lost(run, old, start, trainer.recipe)):
        trainer.talk.say(f"  {words}")
    if not run.rewind(start, (manifest or {}).get("log")):
        trainer.talk.say(
            f"warning: {run.folder / checkpoint.LOG} is not as it was when step {start:,} was "
            "saved; the weights are, and the run goes on from them"
        )


def reported(run: Run, talk: Talk) -> dict[str, Any] | None:
    """The report of a run that is done, None if it is to be made."""
    try:
        return run.read_json(REPORT)
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        talk.say(f"warning: {problem.message}; the run is scored again")
        return None


def _foreign(run: Run) -> bool:
    """Whether something lies there that a start cut short would not have left behind."""
    ours = {".lock", "checkpoints", "pictures", "evaluations", GIVEN, RESOLVED, FILES, INITIAL}
    found = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    # With a checkpoint it is a run whose run.json was lost; the checkpoint tells whose.
    return bool(found - ours) and not checkpoint.steps(run.folder)


def _differs(
    run: Run,
    what: str,
    changed: Sequence[tuple[str, str, str]],
    dataset: DataSet,
    again: Sequence[str],
) -> Problem:
    lines = [
        f"data: {differences(run, dataset)}"
        if path == "data.fingerprint"
        else f"{path}: {old} -> {new}"
        for path, old, new in changed
    ]
    advice = "--fresh or another --out starts anew"
    fits = not any(path.startswith("encoder.") for path, _, _ in changed)
    if fits and checkpoint.steps(run.folder):
        command = shlex.join([*again, "--fresh", "--init-from", str(run.folder)])
        advice = f"{advice}; from its encoder: {command}"
    return Problem(
        f"{what}; what differs changes weights:\n    " + "\n    ".join(lines),
        Exit.EXISTS,
        "run.differs",
        advice,
    )
