"""JSON of the store: strict in both directions."""

import json
from pathlib import Path
from typing import Any, TypeGuard

from clctl.console import Exit, Problem, dump
from clctl.store import reading


def encode(document: Any, indent: int | None = 2) -> bytes:
    """UTF-8 JSON. A name that is not text on this system becomes a JSON escape."""
    return dump(document, indent).encode(errors="backslashreplace")


def parse(raw: bytes) -> dict[str, Any]:
    """The object in `raw`.

    Raises:
        ValueError: If it is not UTF-8 or JSON, not an object, repeats a key, holds NaN or is
            nested without end.
    """
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not is_object(found):
        raise ValueError("not an object")
    return found


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value that was read from JSON is an object."""
    return isinstance(value, dict)


def read(path: Path, code: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Problem: Exit.CHECKPOINT with `code` if the file is damaged.
    """
    try:
        return parse(reading.content(path))
    except ValueError as error:
        raise Problem(f"{path} is damaged: {error}", Exit.CHECKPOINT, code) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
