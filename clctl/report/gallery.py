"""Pictures with their nearest ones: a grid as PNG, or one HTML file that needs nothing else."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clctl.console import clean

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

SIDE, GAP, LINE, HEAD = 96, 10, 15, 34  # pixels: a picture, between them, a line of text, the title
FRAME = 4
PAPER, INK, FAINT, WRONG = "#ffffff", "#1a1a1a", "#6b6b6b", "#c62828"
SHARP = 64  # pixels of a side up to which a picture is kept exact; larger ones become JPEG

_STYLE = """\
:root { color-scheme: light dark }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; background: Canvas; color: CanvasText }
section { display: flex; flex-wrap: wrap; gap: .6rem; padding: .8rem 0;
  border-top: 1px solid GrayText }
figure { margin: 0; width: 7.5rem; overflow-wrap: anywhere }
figure:first-child { margin-right: 1.2rem }
h1 { font-size: 1.2rem }
img { width: 100%; aspect-ratio: 1; object-fit: contain; box-sizing: border-box }
img.sharp { image-rendering: pixelated }
.wrong img { border: 4px solid #c62828 }
.wrong b::after { content: " other class"; color: #c62828 }
@media (prefers-color-scheme: dark) { .wrong img { border-color: #ff6b6b }
  .wrong b::after { color: #ff6b6b } }
figcaption small { color: GrayText; display: block }"""


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
        f"<title>{_escaped(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>",
        f"<h1>{_escaped(title)}</h1>",
    ]
    for row in rows:
        query = row[0]
        figures = [_figure(shown, i, query) for i, shown in enumerate(row)]
        parts.append("\n".join(["<section>", *figures, "</section>"]))
    return "\n".join([*parts, "</body>\n</html>\n"]).encode("utf-8", "backslashreplace")


def _cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    shown: Shown,
    font: "FreeTypeFont",
) -> None:
    x, y = corner
    picture = _scaled(_pillow(shown.picture))
    left, top = x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2
    sheet.paste(picture, (left, top))
    if shown.wrong:
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=WRONG, width=FRAME)
    first = "query" if shown.similarity is None else f"{shown.similarity:.3f}"
    text = shown.name if shown.label is None else shown.label
    second = _fitting(_line(text), font, SIDE, ending=shown.label is None)
    colour = WRONG if shown.wrong else FAINT
    pen.text((x, y + SIDE + 1), first, INK, font)
    pen.text((x, y + SIDE + 1 + LINE), second, colour, font)


def _figure(shown: Shown, place: int, query: Shown) -> str:
    named = _escaped(shown.name) + (f", {_escaped(shown.label)}" if shown.label else "")
    if shown.similarity is None:
        alt, head = f"query {named}", "query"
    else:
        head = f"{shown.similarity:.3f}"
        alt = f"neighbour {place} of {_escaped(query.name)}: {named}, similarity {head}"
    label = "" if shown.label is None else f" {_escaped(shown.label)}"
    address, sharp = _address(_pillow(shown.picture))
    kind = ' class="wrong"' if shown.wrong else ""
    return (
        f'<figure{kind}><img{sharp} alt="{alt}" src="{address}">'
        f"<figcaption><b>{head}</b>{label}<small>{_escaped(shown.name)}</small></figcaption></figure>"
    )


def _address(picture: Image.Image) -> tuple[str, str]:
    """The picture as an address that holds it, and the attribute of small ones."""
    small = max(picture.size) <= SHARP
    if not small:
        picture = picture.copy()
        picture.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BILINEAR)
    found = io.BytesIO()
    form = "PNG" if small else "JPEG"
    picture.save(found, form, **({} if small else {"quality": 85}))
    held = base64.b64encode(found.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{held}", ' class="sharp"' if small else ""


def _pillow(picture: Tensor) -> Image.Image:
    pixels = picture.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


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


def _escaped(text: str) -> str:
    return html.escape(_line(text))
