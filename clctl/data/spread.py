"""Work on many files, spread over threads, in their order; a file that takes too long is given up.

Threads, for decoders release the lock of the interpreter, and processes were slower. A thread
cannot be stopped in the middle of a file: one that was given up ends with its file or with the
process, and another takes its place.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from clctl.data.decode import Bad

SECONDS = 60.0  # for one file; the largest picture that is opened takes one or two
CHUNK = 16  # files per task: small pictures take less time than handing one over

T = TypeVar("T")


@dataclass
class _Task(Generic[T]):
    """Some files, handed to one thread.

    Attributes:
        found: Results so far.
        begun: Which file is in work, since when by the clock, and by the thread's own time.
        thread: Who works on it.
        over: Set when all files are done, or when work ended with `error`.
        dropped: Nobody waits for the rest.
    """

    paths: Sequence[str]
    found: list[T] = field(default_factory=list)
    begun: tuple[int, float, float] | None = None
    thread: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    dropped: bool = False


def spread(paths: Sequence[str], work: Callable[[str], T]) -> Iterator[T | Bad]:
    """What `work` gives for each path, in the order of `paths`.

    A file that takes over SECONDS is Bad: for good where the processor was busy with it for half
    of them, and for this time where it waited for a disk.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    workers = min(len(affinity(0)) if affinity else os.cpu_count() or 1, len(paths))
    todo: SimpleQueue[_Task[T] | None] = SimpleQueue()
    waiting: deque[_Task[T]] = deque()
    for _ in range(workers):
        _start(todo, work)
    try:
        for first in range(0, len(paths), CHUNK):
            waiting.append(_Task(paths[first : first + CHUNK]))
            todo.put(waiting[-1])
            if len(waiting) > 4 * workers:
                yield from _results(waiting, todo, work)
        while waiting:
            yield from _results(waiting, todo, work)
    finally:
        for task in waiting:
            task.dropped = True
        for _ in range(workers):
            todo.put(None)


def _results(
    waiting: deque[_Task[T]], todo: SimpleQueue[_Task[T] | None], work: Callable[[str], T]
) -> Iterator[T | Bad]:
    """Take the first task off and give its results, those of files that were given up as Bad."""
    while waiting:
        task = waiting[0]
        begun = task.begun
        left = SECONDS if begun is None else begun[1] + SECONDS - time.monotonic()
        if task.over.wait(max(left, 0.0)):
            waiting.popleft()
            if task.error is not None:
                raise task.error
            yield from task.found
            return
        if begun is not None and begun is task.begun:
            busy = _busy(task)  # asked while the thread cannot end: a dead one has no clock
            task.dropped = True
            yield from task.found[: begun[0]]
            yield Bad(f"not decoded within {SECONDS:g} s", lasting=busy > SECONDS / 2)
            waiting[0] = _Task(task.paths[begun[0] + 1 :])
            _start(todo, work, waiting[0])


def _start(
    todo: SimpleQueue[_Task[T] | None], work: Callable[[str], T], first: _Task[T] | None = None
) -> None:
    # A daemon: a file that hangs must not keep the process.
    arguments = (todo, work, first)
    threading.Thread(target=_serve, args=arguments, name="decode", daemon=True).start()


def _serve(
    todo: SimpleQueue[_Task[T] | None], work: Callable[[str], T], first: _Task[T] | None
) -> None:
    task = first or todo.get()
    while task is not None:
        task.thread = threading.get_ident()
        try:
            for place, path in enumerate(task.paths):
                if task.dropped:
                    return
                task.begun = (place, time.monotonic(), time.thread_time())
                task.found.append(work(path))
        except BaseException as error:
            task.error = error
        task.over.set()
        task = todo.get()


def _busy(task: _Task[T]) -> float:
    """Seconds of the processor that the file in work has taken; 0 where the system cannot tell."""
    clock = getattr(time, "pthread_getcpuclockid", None)
    if clock is None or task.begun is None:
        return 0.0
    return time.clock_gettime(clock(task.thread)) - task.begun[2]
