"""The live screen of training: its lines, which are text alone, and the terminal that shows them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clctl.console import clean
from clctl.report.document import duration, percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

REFRESH = 4  # screens per second
POINTS = 64  # of a curve: more than a line has room for
BLOCKS, LETTERS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
MARGIN = 0.03  # of kNN: less is within the noise of a thousand pictures
GAP = "  "


@dataclass
class Trail:
    """A curve from its first value to its last in at most POINTS points at equal distances."""

    points: list[float] = field(default_factory=list)
    each: int = 1  # values that a point is the mean of
    _sum: float = 0.0
    _count: int = 0

    def add(self, value: float) -> None:
        """Take the next value."""
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count < self.each:
            return
        self.points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self.points) == POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points, self.each = [(a + b) / 2 for a, b in pairs], 2 * self.each


@dataclass(frozen=True)
class Now:
    """What there is to show.

    Attributes:
        left: Seconds to the end, None before that can be told and at the end.
        saves: Seconds to the next checkpoint, None where it is the one at the end.
        last: The newest record of the log, empty before the first.
        first: The readings of step 0.
        begin: What the weights were then: "random-init", or "at the start".
        loss, knn: The curves of both, that of kNN from step 0 on.
    """

    name: str
    step: int
    total: int
    left: float | None = None
    saves: float | None = None
    rate: float = 0.0
    last: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    begin: str = "random-init"
    loss: Sequence[float] = ()
    knn: Sequence[float] = ()


def lines(now: Now, width: int, blocks: bool) -> list[str]:
    """The screen, no line longer than `width`: what does not fit is left out, the rest stays.

    Args:
        blocks: Whether the terminal has characters beyond ASCII.
    """
    share = now.step / max(now.total, 1)
    left = [] if now.left is None else [f"{duration(now.left)} to go"]
    counts = [f"{now.step:,}/{now.total:,}", *left, percent(share)]
    head = _fitted([now.name, *counts], width, GAP)
    free = min(40, width - len(head) - len(GAP))
    if free >= 10:
        head = head.replace(now.name, f"{now.name}{GAP}{_bar(share, free, blocks)}", 1)
    found = [head]
    if now.last:
        figures = [_fitted(pieces, width, ", ") for pieces in (_loss(now), _knn(now)) if pieces]
        column = max(map(len, figures)) + len(GAP)
        for figure, values in zip(figures, (now.loss, now.knn), strict=False):
            drawn = _curve(values, min(40, width - column), blocks)
            found.append(f"{figure:<{column}}{drawn}" if drawn else figure)
        spread = f"spread  {now.last['spread']:.2f} (1 apart, 0 all alike)"
        speed = f"{now.rate:,.0f} images/s"
        waiting = f"waiting {percent(now.last['waiting'])}"
        small = [f"spread  {now.last['spread']:.2f}", speed]
        wide = _fitted([spread, speed, waiting], width, ", ")
        found.append(wide if waiting in wide else _fitted(small, width, ", "))
    found.append(_fitted(meaning(now), width, ", "))
    when = "at the end" if now.saves is None else f"in {duration(now.saves)}"
    coming = [f"saves {when}", "Ctrl-C saves and stops"]
    found.append(_fitted(coming if now.step < now.total else ["saved"], width, "; "))
    return found


def meaning(now: Now) -> list[str]:
    """Whether it is learning, in words, the first of which stand alone."""
    if not now.last:
        return ["the first figures come soon"]
    last, first = now.last, now.first
    if last["spread"] < min(0.1, first.get("spread", 1.0) / 2):
        return ["not learning: all pictures look alike", "the guard stops a collapse"]
    gain = last["knn"] - first["knn"] if "knn" in last and "knn" in first else None
    above = gain is not None and gain > MARGIN
    if "loss_chance" not in last:
        if gain is None:
            return ["no word yet", "the loss of this method alone does not tell"]
        return [f"learning: kNN above {now.begin}" if above else f"not yet: kNN as {now.begin}"]
    share = last["loss"] / last["loss_chance"]
    if share < 0.9:
        return ["learning: loss well under chance", f"kNN above {now.begin}"][: 1 + above]
    if above:
        return [f"learning: kNN above {now.begin}", "a loss near chance does no harm"]
    return ["begins to learn: loss under chance" if share < 0.98 else "not yet: loss at chance"]


def _loss(now: Now) -> list[str]:
    chance = now.last.get("loss_chance")
    return [
        f"loss    {now.last['loss']:.3f}",
        *([] if chance is None else [f"chance {chance:.2f}"]),
    ]


def _knn(now: Now) -> list[str]:
    if "knn" not in now.last:
        return []
    before = now.first.get("knn")
    return [
        f"kNN     {percent(now.last['knn'])} within train",
        *([] if before is None else [f"{now.begin} {percent(before)}"]),
    ]


def _fitted(pieces: Sequence[str], width: int, between: str) -> str:
    """As many of the first pieces as there is room for; the first is cut rather than left out."""
    found = pieces[0][: max(width, 1)]
    for piece in pieces[1:]:
        if len(found) + len(between) + len(piece) > width:
            break
        found += between + piece
    return found


def _bar(share: float, width: int, blocks: bool) -> str:
    done = round(min(share, 1.0) * width)
    full, empty = ("━", "─") if blocks else ("#", "-")
    return full * done + empty * (width - done)


def _curve(values: Sequence[float], width: int, blocks: bool) -> str:
    """The curve on a scale of its own; nothing where it has no two points or too little room."""
    if width < 8 or len(values) < 2:
        return ""
    if len(values) > width:
        values = [values[i * (len(values) - 1) // (width - 1)] for i in range(width)]
    low, high, signs = min(values), max(values), BLOCKS if blocks else LETTERS
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    return "".join(signs[round((value - low) * scale)] for value in values)


class _Screen:
    """What rich draws: asks for the newest, in the width that the terminal has by then."""

    def __init__(self, now: Now, blocks: bool) -> None:
        self.now, self.blocks = now, blocks

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        for line in lines(self.now, options.max_width - 1, self.blocks):
            yield Text(clean(line), no_wrap=True, overflow="crop")


def plain_letters(encoding: str) -> bool:
    """Whether a terminal is to get ASCII only: by its encoding, or because LANG is C.

    Python itself takes UTF-8 for C, whatever the terminal can.
    """
    locale = os.environ.get("LC_ALL") or os.environ.get("LANG", "")
    return not encoding.lower().startswith("utf") or locale in ("C", "POSIX")


@contextmanager
def screen(first: Now) -> Iterator[Callable[[Now], None]]:
    """Show a screen on stderr until the block ends; gives what takes the newest figures.

    What is said meanwhile stands above it.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    shown = _Screen(first, blocks=not plain_letters(console.encoding))

    def update(now: Now) -> None:
        shown.now = now

    with Live(shown, console=console, refresh_per_second=REFRESH, redirect_stdout=False):
        yield update
