"""The folder of a run: its lock, its JSON documents and its log."""

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem
from clctl.store import disk, documents, files, reading
from clctl.store.checkpoint import CHECKPOINTS, LOG

INITIAL = "initial.safetensors"  # the weights that a run started from, where not random

_held: set[int] = set()


def _let_go() -> None:
    # A forked worker that outlives its parent would keep the parent's lock.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class Run:
    """A run's folder. Nothing is made on the disk before `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / CHECKPOINTS
        self.pictures = folder / "pictures"
        self.evaluations = folder / "evaluations"

    def open(self) -> None:
        """Make the folders that are not there yet."""
        for folder in (self.folder, self.checkpoints, self.pictures, self.evaluations):
            files.make(folder)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Hold the run against a second launch, until the block or the process ends.

        Raises:
            Problem: Exit.EXISTS if another process holds it, telling which.
        """
        path = self.folder / ".lock"
        with disk.writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        _held.add(handle)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _locked(self.folder, os.pread(handle, 4096, 0)) from error
            except OSError as error:
                raise _unlockable(path, error) from error
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
            with disk.writing(path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, documents.encode(holder, None), 0)
            files.sweep(self.folder)
            yield
        finally:
            if handle in _held:
                _held.remove(handle)
                os.close(handle)

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Replace one JSON document of the run."""
        files.write(self.folder / name, documents.encode(document) + b"\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON document of the run, None where there is none.

        Raises:
            Problem: Exit.CHECKPOINT if it is damaged.
        """
        path = self.folder / name
        return documents.read(path, "run.damaged") if reading.exists(path) else None

    def log(self, record: dict[str, Any]) -> None:
        """Append one record, which names its "step", to the log."""
        if type(record.get("step")) is not int:
            raise ValueError("a record of the log needs its step")
        files.append(self.folder / LOG, documents.encode(record, None))

    def records(self) -> list[dict[str, Any]]:
        """The whole records of the log, oldest first; a last line that was cut is no record.

        Raises:
            Problem: Exit.CHECKPOINT if a line before the last is damaged.
        """
        return [self._record(line) for line in reading.lines(self.folder / LOG)]

    def rewind(self, step: int) -> None:
        """Drop the records of later steps, which a run that continues at `step` makes again."""
        files.truncate_lines(self.folder / LOG, lambda line: self._record(line)["step"] <= step)

    def _record(self, line: bytes) -> dict[str, Any]:
        try:
            record = documents.parse(line)
            if type(record.get("step")) is not int:
                raise ValueError("it has no step")
        except ValueError as error:
            shown = line[:60].decode(errors="replace")
            raise Problem(
                f"{self.folder / LOG} is damaged at the line {shown!r}: {error}",
                Exit.CHECKPOINT,
                "run.damaged",
                "delete that line and run the same command again",
            ) from error
        return record


def _locked(folder: Path, holder: bytes) -> Problem:
    try:
        known = documents.parse(holder)
        who = f"process {known.get('pid')} on {known.get('host')} since {known.get('since')}"
    except ValueError:
        who = "another process"
    return Problem(
        f"{folder} is in use by {who}",
        Exit.EXISTS,
        "run.locked",
        "wait for it, stop it, or give another --out",
    )


def _unlockable(path: Path, error: OSError) -> Problem:
    return Problem(
        f"{path} cannot be locked: {os.strerror(error.errno or 0)}",
        Exit.RESOURCES,
        "run.no-lock",
        "give an --out on a disk that has file locks",
    )
