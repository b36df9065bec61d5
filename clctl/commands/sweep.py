"""clctl sweep: several recipes with several seeds, one after the other, and one table of them."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clctl.commands import _setup, _sweep_measure, _sweep_row, _sweep_table
from clctl.commands._runs_read import top1
from clctl.commands._stop import Stop, seconds
from clctl.commands._sweep_children import Ended, Task, work
from clctl.commands._sweep_folder import ROWS, RUNS, origin
from clctl.commands._sweep_measure import EVALUATIONS, Asked, slug
from clctl.commands._sweep_row import Row
from clctl.console import Exit, Problem, Talk, dump
from clctl.recipe.read import find, read
from clctl.report.document import Report
from clctl.store import files, reading
from clctl.store.run import Run


@dataclass(frozen=True)
class Order:
    """What was typed."""

    recipes: tuple[str, ...]
    out: Path
    seeds: int = 2
    max_time: str | None = None
    data: str | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"


def sweep(order: Order, talk: Talk) -> Report:
    """Train and score what is not done yet, and write the table after every run.

    Raises:
        Problem: If the order as a whole cannot be carried out; what is wrong with one recipe is
            told in its row.
    """
    limit = seconds(order.max_time) if order.max_time else None
    if order.seeds < 1:
        raise Problem(
            f"--seeds {order.seeds} must be 1 or more", Exit.USAGE, "usage.seeds", "--seeds 2"
        )
    with Stop(limit).listening() as stop:
        devices = _devices(order.device)
        names = _names(order.recipes)
        jobs = [
            (recipe, _asked(order, recipe, name, seed))
            for recipe, name in names.items()
            for seed in range(order.seeds)
        ]
        files.make(order.out)
        with Run(order.out).lock(), stop.steps():
            ours = origin(order.out)
            told = partial(_told, order, [asked for _, asked in jobs], ours)
            tasks = [
                partial(_task, order, recipe, asked, ours, stop, talk, told)
                for recipe, asked in jobs
            ]
            told()  # rows of other machines are shown before the first run ends
            work(tasks, devices, stop)
            return told(stop)


def _devices(choice: str) -> tuple[str, ...]:
    """One for each run at a time: all GPUs, those that are named, or the one device."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    several = choice.split(",")
    if choice in ("auto", "all") and cards > 1:
        several = [f"cuda:{i}" for i in range(cards)]
    several = [f"cuda:{name}" if name.isdigit() else name for name in several]
    for name in several:
        _setup.machine(name)  # refuses what is not there
    return tuple(dict.fromkeys(several))


def _names(recipes: tuple[str, ...]) -> dict[str, str]:
    """What each recipe is called in the folder, by what was typed.

    Raises:
        Problem: If two would share a name.
    """
    found: dict[str, str] = {}
    for recipe in dict.fromkeys(recipes):
        path = Path(recipe)
        name = path.stem if path.suffix in (".yaml", ".yml", ".json") else recipe
        same = [r for r, n in found.items() if slug(n) == slug(name)]
        if same:
            raise Problem(
                f"{same[0]} and {recipe} would both be called {slug(name)} in the sweep",
                Exit.USAGE,
                "sweep.names",
                "give the file of one of them another name",
            )
        found[recipe] = name
    return found


def _asked(order: Order, recipe: str, name: str, seed: int) -> Asked:
    try:
        found = read(find(recipe), (*order.overrides, f"seed={seed}"), order.data)
    except Problem as problem:
        return Asked(name, seed, None, problem.message, int(problem.exit))
    return Asked(name, seed, found)


def _task(
    order: Order,
    recipe: str,
    asked: Asked,
    ours: str,
    stop: Stop,
    talk: Talk,
    told: Callable[[], Report],
    device: str,
) -> Task:
    """The commands of one run, as far as they are not done; then its row."""
    place, stem = order.out / ROWS, f"{asked.stem}-{ours}"
    if _settled(place / f"{stem}.json", asked):
        return
    folder = order.out / RUNS / asked.stem
    try:
        if asked.recipe is None:
            row = _sweep_measure.undone(asked, folder, "failed", asked.why, asked.exit)
        else:
            talk.say(f"sweep: {asked.stem} on {device}")
            command = _pretrain(order, recipe, asked, folder, device, stop)
            row = yield from _scored(asked, folder, command, device, talk)
    except Problem as problem:  # a damaged file of the run
        row = _sweep_measure.undone(asked, folder, "failed", problem.message, int(problem.exit))
    if row.state == "failed":
        talk.say(f"sweep: {asked.stem} failed: {row.why}")
    _sweep_row.write(place, stem, row)
    told()


def _scored(
    asked: Asked, folder: Path, command: list[str], device: str, talk: Talk
) -> Generator[list[str], Ended, Row]:
    """Train, score by what is not there yet, and give the row."""
    quiet, notes = ["--quiet"] if talk.quiet else [], list[str]()
    ended = yield [*command, *quiet]
    if ended.code != Exit.OK:
        return _undone(asked, folder, ended, "pretrain")
    if top1(ended.document) is None:
        return _sweep_measure.done(asked, folder, ["the data have no labels to score by"], talk)
    for column, name, protocol, words in EVALUATIONS:
        if _sweep_measure.evaluation(folder, name, protocol, talk):
            continue
        ended = yield [name, str(folder), *words, "--device", device, *quiet]
        if ended.code == Exit.DATA:  # no labels, or too few: that stays so
            notes.append(f"{column}: {ended.why}")
        elif ended.code != Exit.OK:
            return _undone(asked, folder, ended, name)
    return _sweep_measure.done(asked, folder, notes, talk)


def _undone(asked: Asked, folder: Path, ended: Ended, command: str) -> Row:
    """The row of a run of which a command did not come to its end."""
    if ended.stopped or ended.code in (Exit.PREEMPTED, Exit.INTERRUPTED):
        return _sweep_measure.undone(asked, folder, "stopped", f"in {command}", Exit.PREEMPTED)
    return _sweep_measure.undone(asked, folder, "failed", f"{command}: {ended.why}", ended.code)


def _settled(path: Path, asked: Asked) -> bool:
    """Whether the row is final: done, or failed in a way that steps from one seed repeat."""
    if not reading.exists(path):
        return False
    try:
        row = _sweep_row.read(path)
    except Problem:
        return False  # it is written anew
    final = row.state == "done" or (row.state == "failed" and row.exit == Exit.NUMERICS)
    return final and row.asked == asked.digest


def _pretrain(
    order: Order, recipe: str, asked: Asked, folder: Path, device: str, stop: Stop
) -> list[str]:
    """The command that trains, or continues."""
    changes = (*order.overrides, f"seed={asked.seed}")
    command = ["pretrain", recipe, *(word for text in changes for word in ("--set", text))]
    if order.data is not None:
        command += ["--data", order.data]
    if stop.limit is not None:
        left = stop.limit - (time.monotonic() - stop.started)
        command += ["--max-time", f"{max(left, 0.1):.1f}s"]
    return [*command, "--device", device, "--out", str(folder)]


def _told(order: Order, jobs: list[Asked], ours: str, stop: Stop | None = None) -> Report:
    """Write the table of all rows that lie there, and report it."""
    rows, broken = _sweep_row.rows(order.out / ROWS)
    mine = {asked.stem: rows.get(f"{asked.stem}-{ours}") for asked in jobs}
    remaining = [stem for stem, row in mine.items() if row is None or row.state == "stopped"]
    failed = [stem for stem, row in mine.items() if row is not None and row.state == "failed"]
    table = _sweep_table.lines([rows[name] for name in sorted(rows)])
    document: dict[str, Any] = {
        "schema": "clctl/sweep/1",
        "folder": str(order.out),
        "remaining": remaining,
        "failed": failed,
        "broken": broken,
        "table": table,
        "rows": [{"file": f"{name}.json", **rows[name].document()} for name in sorted(rows)],
    }
    shown = _sweep_table.markdown(table)
    made = {"md": shown, "csv": _sweep_table.comma_separated(table), "json": dump(document) + "\n"}
    for end, text in made.items():
        path, data = order.out / f"table.{end}", text.encode(errors="backslashreplace")
        if not reading.exists(path) or reading.content(path) != data:
            files.write(path, data)
    said = [shown.rstrip(), *(f"left out: {why}" for why in broken)]
    said += [f"failed: {stem}: {row.why}" for stem in failed if (row := mine[stem]) is not None]
    if remaining:
        said.append(f"not done: {', '.join(remaining)}; the same command goes on")
    said.append(f"table: {order.out / 'table.md'}, table.csv, table.json")
    code = Exit.OK if not failed else Exit.GATE
    if remaining:
        code = Exit.PREEMPTED if stop is None else stop.exit
    return Report(document, "\n".join(said), str(order.out / "table.md"), code)
