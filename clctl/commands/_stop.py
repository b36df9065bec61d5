"""Why a run should stop early: a signal, or its time is up. Handlers only set a flag."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clctl.console import Exit, Problem

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Seconds of a duration such as 90s, 30m, 8h, 1h30m or 2d.

    Raises:
        Problem: If the text is none, or is no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not total > 0:
        raise Problem(
            f"--max-time {text} is not a duration", Exit.USAGE, "usage.duration", "--max-time 1h30m"
        )
    return total


class Stop:
    """Asked between steps. A second signal leaves at once."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.started = time.monotonic()
        self.signal: int | None = None

    @property
    def reason(self) -> str | None:
        """Why to stop now, in words, or None."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.limit is not None and time.monotonic() - self.started >= self.limit:
            return "--max-time"
        return None

    @property
    def exit(self) -> Exit:
        """130 after Ctrl-C, 75 for all else: saved, run the same command again."""
        return Exit.INTERRUPTED if self.signal == signal.SIGINT else Exit.PREEMPTED

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the signals over inside the block."""
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
        known = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self._note) for number in known}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
