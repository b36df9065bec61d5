"""Which classes are taken for which: the matrix as a chart, and the worst pairs as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clctl.report import charts
from clctl.report.thumbnails import escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 50  # classes up to which the matrix is drawn
COUNTED = 20  # classes up to which its cells have numbers
PAIRS = 10  # rows of the table
LEAST = 0.6  # of its size, which the chart keeps on a narrow page


def figure(table: Tensor, classes: Sequence[str]) -> "Figure":
    """The matrix: rows the truth, columns what was said; a darker cell has more of its row.

    Args:
        table: int64 [C, C], C up to DRAWN.
        classes: Their C names.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    count = len(classes)
    drawn = Figure(figsize=(_side(count), _side(count)), layout="constrained")
    axes = drawn.subplots()
    share = table / table.sum(dim=1, keepdim=True).clamp_min(1)
    cells = table.nonzero().tolist()
    squares = [[(j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1)] for i, j in cells]
    tints = [
        to_rgba(charts.SERIES[0] if i == j else charts.WRONG, 0.1 + 0.55 * float(share[i, j]))
        for i, j in cells
    ]
    axes.add_collection(PolyCollection(squares, facecolors=tints, edgecolors="none"))
    if count <= COUNTED:
        for i, j in cells:
            axes.text(j + 0.5, i + 0.5, f"{table[i, j]}", ha="center", va="center", fontsize=8)
    ticks = torch.arange(count) + 0.5
    size = 9 if count <= COUNTED else 6
    names = [charts.plain(_short(name)) for name in classes]
    axes.set_xticks(ticks, names, rotation=90, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal", xlabel="said", ylabel="true")
    axes.tick_params(length=0)
    for line in axes.spines.values():
        line.set_color(charts.GRID)
    return drawn


def worst(table: Tensor) -> list[int]:
    """Classes that have pictures, the one with the least share of them right first."""
    images = table.sum(dim=1)
    recall = table.diagonal() / images.clamp_min(1)
    order = recall.argsort(stable=True).tolist()
    return [i for i in order if images[i]]


def mixed_up(table: Tensor, classes: Sequence[str]) -> str:
    """A table of the pairs that are confused most often; empty where nothing is.

    Args:
        table: int64 [C, C], rows the truth.
        classes: Their C names.
    """
    images = table.sum(dim=1)
    wrong = table - table.diagonal().diag()
    order = wrong.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = [(int(at) // len(classes), int(at) % len(classes)) for at in order]
    rows = [
        f'<tr><th scope="row">{escaped(classes[i])}</th><td>{escaped(classes[j])}</td>'
        f"<td>{wrong[i, j]} of {images[i]}</td></tr>"
        for i, j in pairs
        if wrong[i, j]
    ]
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("class", "taken for", "pictures"))
    head = f"<caption>The classes that are confused most often</caption><thead><tr>{head}"
    body = "\n".join(rows)
    return f'<div class="scroll"><table>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def scrolled(svg: str, classes: int) -> str:
    """The chart, where it is wide kept large enough to read, in a frame that scrolls."""
    pixels = round(96 * LEAST * _side(classes))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<div style="min-width: {pixels}px">{svg}</div></div>'
    )


def _side(count: int) -> float:
    """Inches of the chart of so many classes."""
    return min(7.2, max(2.4, 0.42 * count)) + 1.6


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
