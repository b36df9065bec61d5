"""Small pictures that live inside a page: each as an address of its own, or many on one sheet."""

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image
from torch import Tensor

from clctl.console import clean

SHARP = 32  # pixels of a side up to which a picture is kept exact; larger ones become JPEG
SIDE = 112  # pixels that the long side of a large one is shrunk to, in a report


STRIPS = """\
.strip { display: flex; flex-wrap: wrap; gap: .6rem; padding: .8rem 0; border-top: 1px solid var(--grid) }
.strip figure { margin: 0; width: 7.5rem; overflow-wrap: anywhere; line-height: 1.3 }
.strip.led figure:first-child { margin-right: 1.2rem }
.strip img { width: 100%; aspect-ratio: 1; object-fit: contain; box-sizing: border-box }
.strip img.sharp { image-rendering: pixelated }
.strip .wrong img { border: 4px solid var(--wrong) }
.strip .wrong i { color: var(--wrong); font-style: normal; font-weight: bold }
.strip figcaption { font-size: .85rem }
.strip small { color: var(--faint); display: block }
@media (max-width: 40rem) { .strip figure { width: 6rem }
  .strip.led figure:first-child { margin-right: 0 } }"""
"""Style of strips; the page around them has the variables --faint, --grid and --wrong."""


def escaped(text: str) -> str:
    """A name from outside as one line of HTML, also fit for an attribute in double quotes."""
    return html.escape(clean(text).replace("\n", " "))


def broken(text: str) -> str:
    """The same for a narrow column, which may break it after an underscore."""
    return escaped(text).replace("_", "_<wbr>")


def last(name: str) -> str:
    """The last part of a path."""
    return name.rpartition("/")[2]


def pillow(picture: Tensor) -> Image.Image:
    """uint8 [C, H, W], C 1 or 3, for Pillow: grey or RGB."""
    pixels = picture.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def image(picture: Tensor, alt: str, side: int) -> str:
    """An <img> that holds the picture: exact where it is small, else JPEG.

    Args:
        picture: uint8 [C, H, W], C 1 or 3.
        alt: Plain text; escaped here.
        side: Pixels that the long side of a large one is shrunk to.
    """
    held = pillow(picture)
    small = max(held.size) <= SHARP
    if not small:
        held.thumbnail((side, side), Image.Resampling.BILINEAR)
    address = _address(held, "PNG" if small else "JPEG")
    kind = ' class="sharp"' if small else ""
    return f'<img{kind} alt="{escaped(alt)}" src="{address}">'


def figure(picture: Tensor, alt: str, caption: str, side: int, wrong: bool = False) -> str:
    """A picture with what stands below it, one line of HTML.

    Args:
        picture, alt, side: As `image`.
        caption: HTML, with what is from outside escaped.
        wrong: Whether it has a frame; the caption says so too.
    """
    kind = ' class="wrong"' if wrong else ""
    return f"<figure{kind}>{image(picture, alt, side)}<figcaption>{caption}</figcaption></figure>"


def strip(figures: Iterable[str], led: bool = True) -> str:
    """Figures side by side; see STRIPS for their style.

    Args:
        led: Whether the first is what the others are beside.
    """
    kind = "strip led" if led else "strip"
    return "\n".join([f'<div class="{kind}">', *figures, "</div>"])


def sheet(pictures: Iterable[Tensor], side: int, columns: int) -> str:
    """The centres of many pictures, row by row in squares, as one JPEG: its address.

    Args:
        pictures: Each uint8 [C, H, W], C 1 or 3.
        side: Pixels of a square.
        columns: Squares in a row.
    """
    squares = [_square(pillow(picture), side) for picture in pictures]
    rows = -(-len(squares) // columns)
    page = Image.new("RGB", (side * columns, side * rows))
    for i, square in enumerate(squares):
        page.paste(square, (i % columns * side, i // columns * side))
    return _address(page, "JPEG", 70)


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The largest central square; pixels of a small picture stay squares."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    how = Image.Resampling.NEAREST if short < side else Image.Resampling.BILINEAR
    return picture.resize((side, side), how, box, reducing_gap=3)


def _address(picture: Image.Image, form: str, quality: int = 80) -> str:
    found = io.BytesIO()
    picture.save(found, form, **({"quality": quality} if form == "JPEG" else {}))
    held = base64.b64encode(found.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{held}"
