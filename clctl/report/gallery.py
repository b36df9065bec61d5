"""Pictures with their nearest ones: a grid as PNG, one HTML file, or a part of another page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clctl.console import clean
from clctl.report.thumbnails import STRIPS, broken, escaped, figure, pillow, strip

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

SIDE, GAP, LINE, HEAD = 96, 10, 15, 34  # pixels: a picture, between them, a line of text, the title
FRAME = 4
PAPER, INK, FAINT, WRONG = "#ffffff", "#1a1a1a", "#6b6b6b", "#c62828"
SIGN = "✗"  # beside the frame of a wrong one, for who does not see its colour

_STYLE = """\
:root { color-scheme: light dark }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; background: Canvas; color: CanvasText }
h1 { font-size: 1.2rem }
:root { --faint: GrayText; --grid: GrayText; --wrong: #c62828 }
@media (prefers-color-scheme: dark) { :root { --wrong: #ff6b6b } }
"""


@dataclass(frozen=True)
class Shown:
    """One picture of a gallery.

    Attributes:
        name: Its id.
        label: The name of its class, None where there is none.
        picture: uint8 [C, H, W], C 1 or 3.
        similarity: To the query; None for the query itself.
        wrong: Whether it is known to be of another class than the query.
    """

    name: str
    label: str | None
    picture: Tensor
    similarity: float | None = None
    wrong: bool = False


Rows = Sequence[Sequence[Shown]]
"""For each query itself and then its neighbours, the nearest first."""


def png(rows: Rows, title: str) -> bytes:
    """The grid: a row for each query, which stands on the left; wrong classes are framed.

    Returns:
        A PNG file; the same arguments give the same bytes.
    """
    fonts = _font(11), _font(14)
    columns = max(map(len, rows))
    width = GAP + columns * (SIDE + GAP) + GAP
    cell = SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (width, HEAD + GAP + cell * len(rows)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), _fitting(_line(title), fonts[1], width - 2 * GAP), INK, fonts[1])
    for i, row in enumerate(rows):
        for j, shown in enumerate(row):
            corner = (GAP + j * (SIDE + GAP) + GAP * (j > 0), HEAD + i * cell)
            _cell(sheet, pen, corner, shown, fonts[0])
    found = io.BytesIO()
    sheet.save(found, "PNG", optimize=False)
    return found.getvalue()


def page(rows: Rows, title: str) -> bytes:
    """The same as one HTML file, in UTF-8: pictures inside, no script, nothing fetched."""
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>\n{_STYLE}{STRIPS}\n</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        strips(rows, 2 * SIDE),
    ]
    return "\n".join([*parts, "</body>\n</html>\n"]).encode("utf-8", "backslashreplace")


def strips(rows: Rows, side: int) -> str:
    """The same as a part of a page: a strip for each query.

    Args:
        side: Pixels that the long side of a picture is shrunk to.
    """
    return "\n".join(
        strip(_figure(shown, i, row[0], side) for i, shown in enumerate(row)) for row in rows
    )


def _cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    shown: Shown,
    font: "FreeTypeFont",
) -> None:
    x, y = corner
    picture = _scaled(pillow(shown.picture))
    left, top = x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2
    sheet.paste(picture, (left, top))
    if shown.wrong:
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=WRONG, width=FRAME)
    first = "query" if shown.similarity is None else f"{shown.similarity:.3f}"
    first += f" {SIGN}" * shown.wrong
    text = shown.name if shown.label is None else shown.label
    second = _fitting(_line(text), font, SIDE, ending=shown.label is None)
    colour = WRONG if shown.wrong else FAINT
    pen.text((x, y + SIDE + 1), first, INK, font)
    pen.text((x, y + SIDE + 1 + LINE), second, colour, font)


def _figure(shown: Shown, place: int, query: Shown, side: int) -> str:
    named = shown.name + (f", {shown.label}" if shown.label else "")
    if shown.similarity is None:
        alt, head = f"query {named}", "query"
    else:
        head = f"{shown.similarity:.3f}"
        alt = f"neighbour {place} of {query.name}: {named}, similarity {head}"
    sign = f" <i>{SIGN} other class</i>" if shown.wrong else ""
    label = "" if shown.label is None else f" {broken(shown.label)}"
    caption = f"<b>{head}</b>{sign}{label}<small>{broken(shown.name)}</small>"
    return figure(shown.picture, alt, caption, side, shown.wrong)


def _scaled(picture: Image.Image) -> Image.Image:
    """Its long side SIDE; pixels of a small picture stay squares."""
    long = max(picture.size)
    width, height = (max(1, round(side * SIDE / long)) for side in picture.size)
    how = Image.Resampling.NEAREST if long < SIDE else Image.Resampling.BILINEAR
    return picture.resize((width, height), how)


def _font(size: int) -> "FreeTypeFont":
    """The font that comes with matplotlib, which has more scripts than Pillow's own."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _fitting(text: str, font: "FreeTypeFont", width: int, ending: bool = False) -> str:
    """As much of a text as fits: its start, or its end, where names differ."""
    if font.getlength(text) <= width:
        return text
    text = text[-80:] if ending else text[:80]
    while text and font.getlength(f"{text}…") > width:
        text = text[1:] if ending else text[:-1]
    return f"…{text}" if ending else f"{text}…"


def _line(text: str) -> str:
    return clean(text).replace("\n", " ")
