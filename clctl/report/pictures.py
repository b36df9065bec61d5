"""Pictures for people. Matplotlib is imported when one is drawn, for it takes half a second."""

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from torch import Tensor

from clctl.console import clean
from clctl.images import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 28  # characters of a name below a picture


def grid(
    originals: Split,
    classes: Sequence[str] | None,
    views: Sequence[tuple[Tensor, list[list[str]]]],
    out: IO[bytes],
) -> None:
    """Draw original / view 1 / view 2 / ... with the parameters of each view below it.

    Args:
        originals: N pictures.
        views: For each view, uint8 [N, C, H, W], and its parameters in words for each picture.
        out: Gets a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 + len(views)
    figure = Figure(figsize=(2.3 * columns, 2.75 * len(originals)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(originals), columns, squeeze=False)
    for i in range(len(originals)):
        height, width = originals.images.sizes[i].tolist()
        picture = originals.images.canvas[i, :, :height, :width].permute(1, 2, 0)
        name = _short(originals.ids[i])
        if classes is not None and originals.labels is not None:
            name += "\n" + _short(classes[int(originals.labels[i])])
        _show(axes[i, 0], picture, f"{name}\n{width}x{height}")
        for j, (pixels, words) in enumerate(views):
            _show(axes[i, j + 1], pixels[i].permute(1, 2, 0), "\n".join(words[i]))
    titles = ["original", *(f"view {j + 1}" for j in range(columns - 1))]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    # Without the library's version in the metadata the same views give the same file.
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})


def _show(axis: "Axes", picture: Tensor, text: str) -> None:
    pixels = picture.cpu().numpy()
    grey = pixels.shape[2] == 1
    axis.imshow(
        pixels[:, :, 0] if grey else pixels,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest",
    )
    axis.set_xticks([])
    axis.set_yticks([])
    # A dollar sign would start a formula.
    axis.set_xlabel(clean(text).replace("$", r"\$"), fontsize=6)


def _short(name: str) -> str:
    name = name.replace("\n", " ")
    return name if len(name) <= LABEL else "..." + name[3 - LABEL :]
