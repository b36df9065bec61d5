"""The processes of a sweep: one for each command, one at a time on each device.

A command of its own gives its memory back, and takes nothing with it when it is killed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import Signals
from typing import IO, Any

from clctl.commands._stop import Stop

PAUSE = 0.05  # seconds between looks at the children


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; below 0 the signal that killed it.
        document: What it printed, empty if that is no JSON document.
        stopped: Whether it was told to stop.
    """

    code: int
    document: dict[str, Any]
    stopped: bool

    @property
    def why(self) -> str:
        """Why it failed, in words."""
        if self.code < 0:
            return f"ended by {Signals(-self.code).name}"
        return str(self.document.get("message") or f"exit {self.code}")


Task = Generator[list[str], Ended, None]
"""Gives one command line after the other, without "clctl", and is sent how each ended."""


class Child:
    """A command that runs."""

    def __init__(self, arguments: list[str]) -> None:
        self.out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `ended` closes it
        self.stopped = False
        # A group of its own: Ctrl-C reaches it once, from us, and not a second time.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clctl", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            process_group=0,
        )

    def stop(self) -> None:
        """Tell it to save and end; once."""
        if not self.stopped:
            self.stopped = True
            self.process.terminate()

    def ended(self) -> Ended | None:
        """How it ended, None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        document: Any = None
        with self.out, suppress(ValueError):
            self.out.seek(0)
            document = json.loads(self.out.read())
        return Ended(code, document if isinstance(document, dict) else {}, self.stopped)


def work(tasks: Sequence[Callable[[str], Task]], devices: Sequence[str], stop: Stop) -> None:
    """Do the tasks in order, each on the first device that is free, until all are done or `stop`.

    Args:
        tasks: Each takes its device.
    """
    waiting, busy = deque(tasks), dict[str, tuple[Task, Child]]()

    def go_on(device: str, task: Task, ended: Ended | None) -> None:
        busy.pop(device, None)
        try:
            command = next(task) if ended is None else task.send(ended)
        except StopIteration:
            return
        if stop.reason is None:
            busy[device] = task, Child(command)
        else:
            task.close()

    try:
        while True:
            for device in devices:
                while waiting and device not in busy and stop.reason is None:
                    go_on(device, waiting.popleft()(device), None)
            if not busy:
                return
            time.sleep(PAUSE)
            stop.saved()  # the children save; nothing of ours is lost by leaving
            for device, (task, child) in list(busy.items()):
                if (ended := child.ended()) is not None:
                    go_on(device, task, ended)
                elif stop.reason is not None:
                    child.stop()
    finally:
        for _, child in busy.values():  # an error of ours must not leave them behind
            child.stop()
            child.process.wait()
