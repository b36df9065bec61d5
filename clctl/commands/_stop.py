"""Why a run should stop early: a signal, or its time is up.

Between steps a signal only sets a flag, and the step is finished and saved. Before the first step
and after the last there is nothing to save: it leaves at once, with the same exit codes.

All durations are of `time.monotonic` and `time.perf_counter`, which on Linux and macOS stand still
while a laptop sleeps and do not follow a clock that is set: neither counts in limits or rates.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from clctl.console import Exit, Problem

LATE = 1000  # the code of a run whose time is up; those below are signals
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, name: str = "--max-time ") -> float:
    """Seconds of a duration such as 90s, 30m, 8h, 1h30m or 2d.

    Args:
        name: What it was given as, in front of it.

    Raises:
        Problem: If the text is none, or is no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not total > 0:
        raise Problem(
            f"{name}{text} is not a duration", Exit.USAGE, "usage.duration", f"{name}1h30m"
        )
    return total


class Signalled(KeyboardInterrupt):
    """A signal came while no step was under way. No `except Exception` holds it up."""


class Stop:
    """Asked between steps. A second signal leaves at once.

    Args:
        limit: Seconds from now on after which to stop, or None.
        twice: Seconds in which a second signal is the first again, as a terminal and a launcher
            both send it to every rank.
    """

    def __init__(self, limit: float | None, twice: float = 0.0) -> None:
        self.limit, self.twice = limit, twice
        self.signalled_at = 0.0
        self.started = self.saved_at = time.monotonic()
        self.signal: int | None = None
        self.late = False  # by another rank's clock
        self.training = False

    @property
    def reason(self) -> str | None:
        """Why to stop now, in words, or None."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        late = self.limit is not None and time.monotonic() - self.started >= self.limit
        return "--max-time" if late or self.late else None

    @property
    def code(self) -> int:
        """The reason as a number, for ranks to agree on: 0 none, a signal, or above them time."""
        if self.signal is not None:
            return self.signal
        return LATE if self.reason else 0

    def heed(self, code: int) -> str | None:
        """The reason in words, once it is agreed, whichever rank it came from."""
        if code == 0:
            return None
        if code == LATE:
            self.late = True
        else:
            self.signal = code
        return self.reason

    @property
    def exit(self) -> Exit:
        """130 after Ctrl-C, 75 for all else: saved, run the same command again."""
        return Exit.INTERRUPTED if self.signal == signal.SIGINT else Exit.PREEMPTED

    @property
    def unsaved(self) -> float:
        """Seconds of training since the last checkpoint of this start."""
        return time.monotonic() - self.saved_at

    @property
    def risk(self) -> str:
        """What a second signal would do, in words."""
        return f"a signal leaves at once and loses {self.unsaved:.0f} s of work"

    def saved(self) -> None:
        """Note that all steps so far are in a checkpoint."""
        self.saved_at = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the signals over inside the block.

        Raises:
            Problem: Exit.PREEMPTED or INTERRUPTED, if one came outside of `steps`.
        """
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
        known = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self._note) for number in known}
        try:
            yield self
        except Signalled as left:
            raise Problem(
                f"stopped by {self.reason}; nothing was lost",
                self.exit,
                "interrupted",
                "the same command goes on from there",
            ) from left
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Training, inside the block: signals wait until `reason` is asked."""
        self.training = True
        self.saved()
        try:
            yield
        finally:
            self.training = False

    def leave(self) -> None:
        """Leave if a signal came that nobody has asked for.

        Raises:
            Signalled: If so.
        """
        if self.signal is not None:
            raise Signalled

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self.signalled_at < self.twice:
                return
            self._drop()
            os._exit(128 + number)
        self.signal, self.signalled_at = number, time.monotonic()
        if not self.training:
            raise Signalled

    def _drop(self) -> None:
        """Say what is lost, past all buffers; and give the terminal its cursor back."""
        lost = f"; about {self.unsaved:.0f} s of work are lost" if self.training else ""
        shown = "\x1b[?25h" if os.isatty(2) else ""
        with suppress(OSError):
            os.write(2, f"{shown}\nleft at once{lost}; the same command continues\n".encode())
