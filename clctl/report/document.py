"""What a command gives back: one JSON document, the same in words, and the same in one word."""

from dataclasses import dataclass
from typing import Any

from clctl.console import Exit


@dataclass(frozen=True)
class Report:
    """The result of one command.

    Attributes:
        document: JSON-able; begins with "schema": "clctl/<kind>/1".
        text: Lines for people, printed to stdout without --json.
        short: One identifier (a path or a number), printed instead with --quiet.
        exit: Exit code of the process.
    """

    document: dict[str, Any]
    text: str
    short: str
    exit: Exit = Exit.OK


def percent(share: float) -> str:
    """0.9714 as "97.1 %"."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: "41 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
