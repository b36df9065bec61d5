"""A contact sheet: many small pictures in rows, with two lines of text below each.

Drawn with Pillow, as a hundred axes of matplotlib take long; the font is matplotlib's, which has
Latin, Greek, Cyrillic and Arabic letters, and boxes for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from clctl.console import clean

SIDE = 112  # pixels of a tile's picture
COLUMNS = 10
_GAP, _LINE = 10, 13
_HEAD = 34


@dataclass(frozen=True)
class Tile:
    """One picture, uint8 [h, w, 1] or [h, w, 3], and what stands below it."""

    pixels: np.ndarray
    label: str
    small_print: str


def sheet(tiles: Sequence[Tile], title: str, out: IO[bytes]) -> None:
    """Draw the tiles in their order, ten a row, and write a PNG to `out`."""
    bold, plain = _font("DejaVuSans-Bold.ttf", 13), _font("DejaVuSans.ttf", 10)
    label = _font("DejaVuSans-Bold.ttf", 10)
    columns = max(1, min(COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    across, down = SIDE + _GAP, SIDE + 2 * _LINE + _GAP
    width = max(_GAP + columns * across, 5 * across)  # room for the title
    page = Image.new("RGB", (width, _HEAD + rows * down + _GAP // 2), "white")
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, 9), _fitting(title, bold, width - 2 * _GAP), "black", bold)
    for i, tile in enumerate(tiles):
        left, top = _GAP + i % columns * across, _HEAD + i // columns * down
        picture = _scaled(tile.pixels)
        at = (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2)
        page.paste(picture, at)
        pen.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline="#d0d0d0")
        for text, font, colour, y in (
            (tile.label, label, "black", top + SIDE + 1),
            (tile.small_print, plain, "#606060", top + SIDE + 1 + _LINE),
        ):
            pen.text((left, y), _fitting(text, font, SIDE), colour, font)
    page.save(out, "PNG")


def _font(name: str, size: int) -> FreeTypeFont:
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}", size)


def _scaled(pixels: np.ndarray) -> Image.Image:
    """The whole picture in a square tile; what is enlarged keeps its pixels' edges."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return image.resize(size, how)


def _fitting(text: str, font: FreeTypeFont, width: int) -> str:
    """The text, without its middle where it is too long."""
    text = clean(text.replace("\n", " "))
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(_without_middle(text, kept)) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
