"""The charts of a run's log and of its scores: lines over epochs, and dots with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clctl.report.charts import DASHES, FAINT, GRID, INK, MARKERS, SERIES, WRONG, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.7, 2.6  # inches; the text stays readable where a narrow screen shrinks it little
POINTS = 300  # of a line; of more, the lowest and the highest of each stretch are drawn
NAME = 34  # signs of a label


@dataclass(frozen=True)
class Line:
    """One quantity over the run: y at x, of equal lengths; NaN leaves a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Level:
    """A value to compare with, drawn across."""

    label: str
    y: float


@dataclass(frozen=True)
class Mark:
    """Something that happened at x: "resume" or "warning"."""

    kind: str
    x: float


@dataclass(frozen=True)
class Dot:
    """A score in [0, 1], with its interval where there is one."""

    label: str
    value: float
    interval: tuple[float, float] | None = None


def curve(
    lines: Sequence[Line],
    levels: Sequence[Level],
    marks: Sequence[Mark],
    across: str,
    floor: bool,
) -> "Figure":
    """Lines over `across`, told apart by colour, dash and sign; levels and marks across them.

    Args:
        floor: Whether the scale begins at 0, where small changes mean little.
    """
    figure, axes = _figure(HEIGHT + 0.17 * max(0, len(lines) - 1))
    for i, line in enumerate(lines):
        x, y = _fewer(np.asarray(line.x, float), np.asarray(line.y, float))
        shown = np.isfinite(y).sum()
        axes.plot(
            x,
            y,
            DASHES[i // len(SERIES) % 4] if len(lines) > 8 else DASHES[i % 4],
            color=SERIES[i % len(SERIES)],
            linewidth=1.6,
            marker=MARKERS[i % len(MARKERS)],
            markersize=3.5,
            markevery=max(1, len(x) // 8) if shown > 8 else 1,
            label=plain(_short(line.label)),
        )
    for level, dash in zip(levels, ((4, 3), (1, 2), (6, 2, 1, 2)), strict=False):
        axes.axhline(
            level.y, color=FAINT, linewidth=1.2, dashes=dash, label=plain(_short(level.label))
        )
    for kind, colour, sign, label in (
        ("resume", FAINT, "|", "continued after a stop"),
        ("warning", WRONG, "x", "sign of collapse"),
    ):
        places = [mark.x for mark in marks if mark.kind == kind]
        for x in places:
            axes.axvline(x, color=colour, linewidth=0.8)
        if places:
            axes.plot(
                places,
                [0.97] * len(places),
                sign,
                color=colour,
                transform=axes.get_xaxis_transform(),
                label=label,
            )
    end = max((x for line in lines for x in line.x), default=0.0) or 1.0
    axes.set_xlim(-0.02 * end, 1.03 * end)
    if floor:
        highest = max((v for line in lines for v in line.y if np.isfinite(v)), default=0.0)
        axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)
    axes.set_xlabel(across, fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        columns = 2 if max(map(len, labels)) < 18 else 1
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            handlelength=2.6,
        )
    return figure


def dots(found: Sequence[Dot], chance: float | None) -> "Figure":
    """Scores as dots with their 95 % intervals, the first on top, on a scale from 0 to 100 %."""
    figure, axes = _figure(0.75 + 0.3 * len(found))
    for i, dot in enumerate(found):
        colour = SERIES[0] if dot.interval is not None else INK
        if dot.interval is not None:
            low, high = dot.interval
            axes.plot([100 * low, 100 * high], [i, i], "-", color=colour, linewidth=5, alpha=0.35)
        axes.plot(
            [100 * dot.value],
            [i],
            "o" if dot.interval is not None else "D",
            color=colour,
            markersize=6,
        )
        at, side = (dot.interval or (dot.value, dot.value)), dot.value > 0.5
        axes.annotate(
            f"{100 * dot.value:.1f}",
            (100 * at[0 if side else 1], i),
            xytext=(-7 if side else 7, 0),
            textcoords="offset points",
            fontsize=8.5,
            ha="right" if side else "left",
            va="center",
        )
    if chance is not None:
        axes.axvline(100 * chance, color=FAINT, linewidth=1.2, dashes=(4, 3))
        axes.annotate(
            "guessing",
            (100 * chance, -0.6),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=FAINT,
            va="center",
        )
    axes.set_yticks(range(len(found)), [plain(_short(dot.label)) for dot in found])
    axes.set(xlim=(-2, 102), ylim=(len(found) - 0.5, -0.9))
    axes.set_xlabel("named rightly, %", fontsize=9)
    axes.grid(visible=False, axis="y")
    return figure


def _figure(height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=8.5)
    return figure, axes


def _fewer(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest point of each of POINTS stretches, so that no peak is lost."""
    if len(x) <= 2 * POINTS:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), POINTS):
        seen = part[np.isfinite(y[part])]
        if len(seen):
            kept |= {int(seen[y[seen].argmin()]), int(seen[y[seen].argmax()])}
        if len(seen) < len(part):
            kept.add(int(part[~np.isfinite(y[part])][0]))
    rows = np.array(sorted(kept))
    return x[rows], y[rows]


def _short(name: str) -> str:
    """A name without its middle where it is too long."""
    half = NAME // 2
    return name if len(name) <= NAME else f"{name[:half]}…{name[1 - half :]}"
