"""The folder of a run: its lock, its JSON documents and its log."""

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem
from clctl.store import disk, documents, files, reading
from clctl.store.checkpoint import CHECKPOINTS, LOG

INITIAL = "initial.safetensors"  # the weights that a run started from, where not random
SEAL = "document_sha256"

_REMEDY = (
    "delete it and run the command that began the run again: "
    "its checkpoints tell whether they belong to that"
)

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
        self._held: int | None = None  # the descriptor of the lock

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
        if files.left_to_another(self.folder):
            yield
            return
        path = self.folder / ".lock"
        with disk.writing(path):
            handle = disk.system.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        _held.add(handle)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                time.sleep(0.1)  # of two that start at once, the first has yet to sign
                raise _locked(self.folder, os.pread(handle, 4096, 0)) from error
            except OSError as error:
                raise _unlockable(path, error) from error
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
            with disk.writing(path):
                disk.system.truncate(handle, 0)
                files.put(handle, documents.encode(holder, None))
            self._held = handle
            self.check()
            files.sweep(self.folder)
            yield
        finally:
            self._held = None
            if handle in _held:
                _held.remove(handle)
                os.close(handle)

    def check(self) -> None:
        """See that the folder is still the one that was locked; without the lock, nothing.

        Raises:
            Problem: Exit.RESOURCES if someone removed it, or put another in its place.
        """
        path, there = self.folder / ".lock", False
        if self._held is None:
            return
        with disk.writing(path), suppress(FileNotFoundError, NotADirectoryError):
            there = os.path.samestat(os.fstat(self._held), os.stat(path))
        if not there:
            raise Problem(
                f"{self.folder} was removed, or replaced, while this run was writing to it",
                Exit.RESOURCES,
                "run.vanished",
                "put it back, or let the same command start anew",
            )

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Replace one JSON document of the run; it is sealed with its own sha256."""
        self.check()
        files.write(self.folder / name, documents.sealed(document, SEAL))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON document of the run, None where there is none.

        Raises:
            Problem: Exit.CHECKPOINT if it is damaged.
        """
        path = self.folder / name
        if not reading.exists(path):
            return None
        return documents.read(path, "run.damaged", SEAL, _REMEDY)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record, which names its "step", to the log."""
        if type(record.get("step")) is not int:
            raise ValueError("a record of the log needs its step")
        self.check()
        files.append(self.folder / LOG, documents.encode(record, None))

    def records(self) -> list[dict[str, Any]]:
        """The whole records of the log, oldest first; a last line that was cut is no record.

        Raises:
            Problem: Exit.CHECKPOINT if a line before the last is damaged.
        """
        return [self._record(line) for line in reading.lines(self.folder / LOG)]

    def rewind(self, step: int, known: dict[str, Any] | None = None) -> bool:
        """Drop the records of later steps, which a run that continues at `step` makes again.

        Args:
            known: "bytes" and "sha256" of the log as it was at that step, where a checkpoint
                noted them.

        Returns:
            False if the log is not as it was then; its whole records of other steps are kept.

        Raises:
            Problem: Exit.CHECKPOINT if it is not, and a line of it is damaged.
        """
        path = self.folder / LOG
        if step == 0:  # nothing of it counts, whole or not
            files.truncate_lines(path, lambda line: False)
            return True
        if known is not None:
            found = reading.content(path, reading.LARGEST_LOG) if reading.exists(path) else b""
            then = found[: known["bytes"]]
            if hashlib.sha256(then).hexdigest() == known["sha256"]:
                if len(then) < len(found):
                    files.write(path, then)
                return True
        files.truncate_lines(path, lambda line: self._record(line)["step"] <= step)
        return known is None

    def after(self, step: int) -> list[dict[str, Any]]:
        """The records of later steps, oldest first, without lines that are damaged."""
        found: list[dict[str, Any]] = []
        for line in reading.lines(self.folder / LOG):
            with suppress(Problem):
                found.append(self._record(line))
        return [record for record in found if record["step"] > step]

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
