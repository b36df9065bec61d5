"""A map of features: pictures that an encoder takes for alike lie together, by t-SNE.

Source: van der Maaten and Hinton 2008, "Visualizing Data using t-SNE"; started from the first two
principal components, so that the rough layout is not one of chance (Kobak and Berens 2019).
"""

import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clctl.console import clean
from clctl.report import charts
from clctl.report.thumbnails import last, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST, MOST = 10, 2000  # pictures of a map
PERPLEXITY, AXES = 30.0, 50  # neighbours that count; principal components that distances are of
STEPS = 700  # of the descent; more change little that can be seen
SAME = 1e-5  # spread of unit rows below which rounding alone would be laid out
NAMED = 16  # classes with a sign of their own
SIDE, PAD = 6.0, 0.03  # inches of the map, share of it that stays free at each edge
TILE, COLUMNS = 40, 50  # pixels of a thumbnail, thumbnails in a row of their sheet

STYLE = """\
.map-plot { position: relative; max-width: 576px }
.map-plot > svg { display: block; width: 100%; height: auto }
.map-ring { position: absolute; width: 16px; height: 16px; margin: -9px 0 0 -9px; pointer-events: none;
  border: 2px solid currentColor; border-radius: 50% }
.map-card { position: absolute; pointer-events: none; padding: 6px; width: 108px; z-index: 1;
  border: 1px solid var(--grid); border-radius: 6px; background: var(--paper);
  font-size: .8rem; line-height: 1.25; overflow-wrap: anywhere }
.map-tile { display: block; width: 96px; height: 96px }"""
"""Style of `explorer`; the page around it has the variables --grid and --paper."""


def laid_out(z: Tensor) -> Tensor:
    """Places float32 [N, 2] in [0, 1] of features float [N, D], by the angles between them.

    The same features give the same places: one thread, for sums over threads differ in their last
    bits, and no chance.

    Raises:
        ValueError: If there are fewer than FEWEST rows, or all of them are one.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(z) < FEWEST:
        raise ValueError(f"{len(z)} pictures are too few for a map; {FEWEST} are enough")
    unit = normalize(z.double(), dim=1)
    around = unit - unit.mean(dim=0)
    if float(around.square().sum(dim=1).mean().sqrt()) < SAME:
        raise ValueError("all pictures have the same features: on a map they would be one point")
    with threadpool_limits(1):
        left, values, _ = torch.linalg.svd(around, full_matrices=False)
        main = (left * values)[:, :AXES]
        first = torch.nn.functional.pad(main, (0, max(0, 2 - main.shape[1])))[:, :2]
        found = TSNE(
            init=(first / first[:, 0].std() * 1e-4).numpy(),  # pyright: ignore[reportArgumentType]
            perplexity=min(PERPLEXITY, (len(z) - 1) / 3),
            max_iter=STEPS,
            random_state=0,
        ).fit_transform(main.numpy())
    places = torch.from_numpy(found).float()
    low, high = places.amin(dim=0), places.amax(dim=0)
    return (places - low) / (high - low).clamp_min(1e-12)


def figure(places: Tensor, labels: Tensor | None, classes: Sequence[str] | None) -> "Figure":
    """The map as a square, each class with a colour and a shape, named below it.

    Args:
        places: [N, 2] in [0, 1].
        labels: int64 [N], or None: all alike.
        classes: Their names. Of more than NAMED the most frequent have a sign of their own.
    """
    from matplotlib.figure import Figure

    named = [] if labels is None or classes is None else _frequent(labels)
    drawn = Figure(figsize=(SIDE, SIDE / share(labels)))
    axes = drawn.add_axes((0, 1 - share(labels), 1, share(labels)))
    axes.set(xlim=(-PAD, 1 + PAD), ylim=(-PAD, 1 + PAD), xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color(charts.GRID)
    rest = torch.ones(len(places), dtype=torch.bool)
    if named:
        assert labels is not None and classes is not None  # noqa: PT018
        rest = ~torch.isin(labels, torch.tensor(named))
        _points(axes, places[rest], charts.FAINT, ".", "other classes" if rest.any() else None)
        for i, label in enumerate(named):
            colour, marker = charts.SERIES[i % 8], charts.MARKERS[(i + i // 8) % 8]
            name = charts.plain(classes[label])
            _points(axes, places[labels == label], colour, marker, _short(name))
        drawn.legend(
            *axes.get_legend_handles_labels(),
            loc="lower center", ncols=4, frameon=False, fontsize=9, handletextpad=0.1,
            columnspacing=0.8, borderaxespad=0.1, markerscale=1.6,
        )  # fmt: skip
    else:
        _points(axes, places, charts.SERIES[0], "o", None)
    return drawn


def share(labels: Tensor | None) -> float:
    """The part of the figure's height that is the map; the legend is below it."""
    signs = 0 if labels is None else min(len(labels.unique()), NAMED + 1)
    return SIDE / (SIDE + 0.24 * -(-signs // 4))


def explorer(
    svg: str,
    places: Tensor,
    height: float,
    names: Sequence[str],
    labels: Sequence[str] | None,
    pictures: Iterable[Tensor],
) -> str:
    """The chart with the pictures behind its points, for a pointer and for the arrow keys.

    Args:
        svg: The chart; its upper part is the map.
        places: [N, 2] as in `figure`.
        height: The chart's `share`.
        names, labels: Of each point.
        pictures: Each uint8 [C, H, W].
    """
    columns = min(COLUMNS, len(names))
    inner = (places + PAD) / (1 + 2 * PAD)
    points = {
        "places": [[round(x, 4), round((1 - y) * height, 4)] for x, y in inner.tolist()],
        "names": [clean(last(name)) for name in names],
        "labels": None if labels is None else [clean(label) for label in labels],
        "columns": columns,
        "rows": -(-len(names) // columns),
    }
    held = json.dumps(points, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = resources.files("clctl.report").joinpath("tsne.js").read_text("utf-8")
    size = f"{100 * columns}% {100 * points['rows']}%"
    return "\n".join(
        [
            '<div class="map">',
            '<p class="map-hint" hidden>Point at a dot to see its picture, or give the map the '
            "keyboard and walk from dot to dot with the arrow keys.</p>",
            f'<div class="map-plot">{svg}<span class="map-ring" hidden></span>',
            f'<div class="map-card" hidden><span class="map-tile" style="background-size: {size}; '
            f'background-image: url({sheet(pictures, TILE, columns)})"></span>',
            '<span class="map-name" aria-live="polite"></span></div></div>',
            f'<script type="application/json">{held}</script>',
            f"<script>\n{script}</script>\n</div>",
        ]
    )


def _frequent(labels: Tensor) -> list[int]:
    """Up to NAMED classes that occur, those with most pictures; in the order of the classes."""
    counts = torch.bincount(labels)
    order = counts.argsort(descending=True, stable=True)[:NAMED].tolist()
    return sorted(i for i in order if counts[i])


def _points(axes: "Axes", places: Tensor, colour: str, marker: str, name: str | None) -> None:
    if len(places):
        axes.scatter(
            *places.T.numpy(), s=14, c=colour, marker=marker, label=name, linewidths=0, alpha=0.8
        )


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
