"""Talk: stderr is for people, stdout is data; what went wrong, and what to do about it."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of every command; stable."""

    OK = 0
    GATE = 1  # --fail-under or --verify failed
    USAGE = 2
    RECIPE = 3
    DATA = 4
    CHECKPOINT = 5
    EXISTS = 6  # would change what exists, or locked by another run
    NUMERICS = 7  # not finite, or collapsed
    RESOURCES = 8  # device, memory, disk
    RANK = 9
    BUG = 70
    PREEMPTED = 75  # saved; the same command continues
    INTERRUPTED = 130


class Problem(Exception):
    """Something that the user can mend. Never shown with a traceback.

    Attributes:
        message: What is wrong, in one sentence, naming the thing.
        exit: Exit code of the process.
        code: Stable dotted name for scripts, such as "recipe.unknown-key".
        suggestion: What to do; a command to type where there is one.
        file, line, column: Place, counted from 1, where there is one.
        excerpt: The offending line of the file.
        width: Number of characters to underline in `excerpt` from `column` on.
        others: Further problems found in the same pass.
    """

    def __init__(
        self,
        message: str,
        exit: Exit,
        code: str,
        suggestion: str | None = None,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        excerpt: str | None = None,
        width: int = 1,
        others: tuple["Problem", ...] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.exit, self.code, self.suggestion = message, exit, code, suggestion
        self.file, self.line, self.column = file, line, column
        self.excerpt, self.width, self.others = excerpt, width, others

    def document(self) -> dict[str, Any]:
        """The problem as JSON, without the schema line."""
        return {
            "code": self.code,
            "exit": int(self.exit),
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "suggestion": self.suggestion,
        }

    def text(self) -> str:
        """The problem as a compiler would print it."""
        lines = [f"error: {clean(self.message)}"]
        if self.file is not None:
            place = [self.file, *(str(n) for n in (self.line, self.column) if n is not None)]
            lines.append("  --> " + clean(":".join(place)))
        if self.excerpt is not None and self.line is not None and self.column is not None:
            number = str(self.line)
            lines.append(f"   {number} | {clean(self.excerpt)}")
            lines.append(
                f"   {' ' * len(number)} | {' ' * (self.column - 1)}{'^' * max(self.width, 1)}"
            )
        if self.suggestion is not None:
            lines.append(f"  help: {clean(self.suggestion)}")
        return "\n".join([*lines, *(p.text() for p in self.others)])


def clean(text: str) -> str:
    """`text` without control characters, so that a file's name cannot drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def dump(document: Any, indent: int | None = 2) -> str:
    """Strict JSON: a number that is not finite becomes null, as JSON has no word for it.

    Half of a surrogate pair, which stands for a byte that is no text, becomes a JSON escape.
    """
    text = json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or one of its libraries says that memory is not enough."""
    words = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError)) and any(word in str(error) for word in words)
    )


class Talk:
    """Everything that is said to people, on stderr; nothing at all when quiet.

    On a terminal a task shows a live bar. Elsewhere a task that takes longer than FIRST seconds
    gets a dated line then, one every HEARTBEAT seconds, and one at its end.
    """

    FIRST, HEARTBEAT = 4.0, 20.0

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print lines to stderr."""
        if not self.quiet:
            encoding = sys.stderr.encoding or "ascii"
            sys.stderr.write(clean(text).encode(encoding, "replace").decode(encoding) + "\n")
            sys.stderr.flush()

    @contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
        """Progress of one task: gives a function to call with the count done and a few words."""
        if self.quiet:
            yield lambda count, words="": None
        elif self.live:
            yield from self._bar(label, total, done)
        else:
            yield from self._lines(label, total)

    def _bar(self, label: str, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
            task = progress.add_task(label, total=total, completed=done, words="")
            yield lambda count, words="": progress.update(task, completed=count, words=clean(words))

    def _lines(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        due, spoken = time.monotonic() + self.FIRST, False

        def tick(count: int, words: str = "") -> None:
            nonlocal due, spoken
            now = time.monotonic()
            if now >= due or (spoken and count >= total):
                due, spoken = now + self.HEARTBEAT, True
                stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                share = 100 * count // max(total, 1)
                self.say(f"{stamp} {label} {count}/{total} {share}% {words}".rstrip())

        yield tick
