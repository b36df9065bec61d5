"""Charts: a matplotlib figure as SVG that lives inside a page, or as PNG.

The colours below are those of a light page. In SVG each becomes a CSS variable of the page, black its
text colour, so that one chart does for light and dark.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from clctl.console import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER, FAINT, GRID, WRONG = "#000000", "#ffffff", "#6b6b6b", "#d9d9d9", "#c62828"
SERIES = ("#0b62a4", "#b84a00", "#00795c", "#8b3fa8", "#7a5c00", "#b0215f", "#3d6b1f", "#4d5b6b")
"""Colours of lines and points; after the last begin again with another dash or marker."""
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_VARIABLES = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    FAINT: "var(--faint)",
    GRID: "var(--grid)",
    WRONG: "var(--wrong)",
    **{colour: f"var(--s{i + 1})" for i, colour in enumerate(SERIES)},
}
_COLOUR = re.compile("|".join(_VARIABLES))
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_OWN_ID = re.compile(r"[A-Za-z0-9_.]+_\d+$")  # matplotlib numbers its groups so
_FONT = re.compile(r"font-family: [^;]*;? ?|font: (?P<size>[\d.]+px) [^;]*")


def plain(text: str) -> str:
    """A name from outside as a label: no control signs, no formulas, kept in a legend."""
    text = clean(text).replace("\n", " ").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def svg(figure: "Figure", title: str, description: str) -> str:
    """The figure as one <svg> element for HTML, transparent, as wide as what holds it.

    Text stays text. Ids are those of this chart alone; an id given with `set_gid` is kept if it does
    not end in an underscore and a number. The same figure gives the same string.

    Args:
        title, description: What a screen reader says instead; plain text.
    """
    found = io.StringIO()
    salt = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:8]
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _drawing({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(found, format="svg", transparent=True, metadata=none)
    root = ET.fromstring(found.getvalue())
    _undress(root)
    mark = "c" + hashlib.sha256(found.getvalue().encode() + salt.encode()).hexdigest()[:8]
    _rename(root, mark)
    width = float(root.attrib.pop("width")[:-2]) * 4 / 3  # points to pixels
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-label": f"{clean(title)}. {clean(description)}",
        "style": f"max-width: {width:.0f}px",
    }
    return ET.tostring(root, encoding="unicode")


def png(figure: "Figure", dpi: int = 100) -> bytes:
    """The figure as a PNG file on white; the same figure gives the same bytes."""
    found = io.BytesIO()
    with _drawing({}):
        figure.savefig(found, format="png", dpi=dpi, metadata={"Software": None})
    return found.getvalue()


@contextmanager
def _drawing(settings: dict[Any, Any]) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The browser has fonts for what matplotlib's has not; in a PNG it is a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _undress(root: ET.Element) -> None:
    """Without namespaces, style sheets, metadata, fonts and needless decimals; colours as variables."""
    for element in root.iter():
        for child in [c for c in element if c.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            if key == "style":
                value = _FONT.sub(lambda m: f"font-size: {m['size']}" if m["size"] else "", value)
                value = _COLOUR.sub(lambda m: _VARIABLES[m[0]], value)
            if key in ("d", "x", "y", "transform", "style", "points"):
                value = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}", value)
                value = " ".join(value.split())
            if value and not value.startswith("rotate(-0 "):
                element.attrib[key.rpartition("}")[2]] = value


def _rename(root: ET.Element, mark: str) -> None:
    """Ids that something refers to become those of this chart, matplotlib's others go."""
    referred: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                referred.add(value[1:])
                element.set(key, f"#{mark}{value[1:]}")
            elif value.startswith("url(#"):
                referred.add(value[5:-1])
                element.set(key, f"url(#{mark}{value[5:-1]})")
    for element in root.iter():
        name = element.get("id")
        if name in referred:
            element.set("id", f"{mark}{name}")
        elif name is not None and _OWN_ID.match(name):
            del element.attrib["id"]
