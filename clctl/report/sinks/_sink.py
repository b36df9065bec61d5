"""Where the log of a run goes besides metrics.jsonl: what a sink is, and all of a run as one.

A sink is one file of this folder with a class `Sink` of the shape below; the recipe names it as
`report.sinks: [NAME]`. tensorboard.py is one.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.recipe.sections import Recipe


class Sink(Protocol):
    """Takes the log of one run. What it raises is told once, and the run goes on without it."""

    def open(self, run: Path, recipe: Recipe, start: int) -> None:
        """Begin, or go on: records of steps after `start` that it took before count no more.

        Args:
            run: The run's folder.
            start: Steps that are done.
        """
        ...

    def log(self, record: dict[str, Any]) -> None:
        """Take one record: its "step", and numbers by name. Called between two steps: be quick."""
        ...

    def close(self) -> None:
        """End: the run is done, or stops. The pictures of the run are in its folder by now."""
        ...


class Sinks:
    """All sinks of a run as one that never fails; of several ranks only the first has any.

    Args:
        say: Takes lines for people.

    Raises:
        Problem: Exit.USAGE, with the line that installs it, if what a sink needs is missing.
    """

    def __init__(self, recipe: Recipe, say: Callable[[str], None]) -> None:
        self._say, self._open = say, dict[str, Sink]()
        kinds = {name: _kind(name) for name in recipe.report.takers}
        self._kinds = kinds if world()[0] == 0 else {}

    def open(self, run: Path, recipe: Recipe, start: int) -> None:
        """As of a sink; those that are open are closed first."""
        self.close()
        for name, kind in self._kinds.items():
            self._open[name] = kind()
        self._each(lambda sink: sink.open(run, recipe, start))

    def log(self, record: dict[str, Any]) -> None:
        """As of a sink."""
        self._each(lambda sink: sink.log(record))

    def close(self) -> None:
        """As of a sink; without effect on one that is closed."""
        self._each(lambda sink: sink.close())
        self._open.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                call(sink)
            except Exception as error:  # of another's library or server; the training is worth more
                del self._open[name], self._kinds[name]
                words = f"{error}".partition("\n")[0] or type(error).__name__
                self._say(f"warning: {name} gets nothing more of this run: {words}")


def _kind(name: str) -> Callable[[], Sink]:
    try:
        return importlib.import_module(f"clctl.report.sinks.{name}").Sink
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise Problem(
            f"report.{name} needs {missing}, which is not installed"
            if name == "tensorboard"
            else f"the sink {name} needs {missing}, which is not installed",
            Exit.USAGE,
            "report.missing-extra",
            f"pip install 'clctl[{name}]'" if name == "tensorboard" else f"pip install {missing}",
        ) from error
