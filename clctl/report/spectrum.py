"""How many directions features use: singular values, of trained and of random weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clctl.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-6  # of the largest: below it lies what float32 rounds


def figure(features: Mapping[str, Tensor]) -> "Figure":
    """A line for each encoder on a log scale: each direction's share of all, which RankMe is of.

    Args:
        features: float [N, D] under the name of their encoder.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6, 3.2), layout="constrained")
    axes = drawn.subplots()
    lowest = 1.0
    for i, (name, z) in enumerate(features.items()):
        values = torch.linalg.svdvals(z.double())
        share = values[values > FLOOR * values[0]] / values.sum()
        lowest = min([lowest, *share.tolist()])
        axes.plot(
            range(1, len(share) + 1),
            share.numpy(),
            charts.DASHES[i % 4] if len(share) > 1 else charts.MARKERS[i % 8],
            color=charts.SERIES[i % 8],
            label=charts.plain(name),
        )
    axes.set_yscale("log")
    axes.set_ylim(min(0.05, lowest) / 2, 1.5)
    axes.set(xlabel="direction, the strongest first", ylabel="share of all strength")
    axes.grid(color=charts.GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return drawn
