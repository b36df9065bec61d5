"""The report page: sections in a frame, as one HTML file that fetches nothing.

The frame is `page.html` with `style.css` and `script.js`, which become part of the file. Its policy
(Content-Security-Policy) lets only these scripts run, by their digests, and nothing be loaded.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.console import clean
from clctl.report.section import Section

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What a stranger should know first.

    Attributes:
        tone: "good", "unsure" or "bad": how it is coloured; a sign says the same.
        word: The outcome in a few words.
        sentence: The same with its figures.
    """

    tone: str
    word: str
    sentence: str


@dataclass(frozen=True)
class Table:
    """A table: its caption, the heads of its columns, its rows; the first cell of a row heads it.

    Attributes:
        figures: Columns that hold figures, counted from 0, and are set flush right.
        strong: Rows that are set bold, counted from 0.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()


def page(
    title: str, subtitle: str, verdict: Verdict, notes: Sequence[str], sections: Sequence[Section]
) -> bytes:
    """The whole file, UTF-8; the same arguments give the same bytes.

    Args:
        title, subtitle: What it is about, plain text.
        notes: What could not be read, plain text.
    """
    script = _text("script.js")
    scripts = [script, *(s for section in sections for s in _SCRIPT.findall(section.body))]
    made = fragment(
        "page.html",
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        notes=notes,
        sections=sections,
        style=_text("style.css"),
        script=script,
        digests=sorted({_digest(s) for s in scripts}),
    )
    return made.encode("utf-8", "backslashreplace")


def fragment(template: str, **values: Any) -> str:
    """A part of a page from a template of this folder; all values are escaped."""
    return _environment().get_template(template).render(**values).strip() + "\n"


def table(*tables: Table) -> str:
    """Tables as HTML."""
    return "".join(fragment("table.html", table=t) for t in tables)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    made.filters["tight"] = _tight
    return made


def _tight(text: str) -> str:
    """Escaped, with figures that stay in one line with their unit."""
    from markupsafe import Markup, escape

    return Markup(str(escape(clean(text))).replace(" %", "&nbsp;%"))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
