"""JSON of the store: strict in both directions, and sealed where damage must show.

A sealed document holds, last, the sha256 of itself with that one value as zeros.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeGuard

from clctl.console import Exit, Problem, dump
from clctl.store import reading

_ZEROS = "0" * 64


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


def sealed(document: dict[str, Any], key: str) -> bytes:
    """The document as UTF-8 JSON and a newline, with its own sha256 under `key`."""
    text = encode({**document, key: _ZEROS}) + b"\n"
    before, _, after = text.rpartition(_ZEROS.encode())
    return before + hashlib.sha256(text).hexdigest().encode() + after


def intact(raw: bytes, key: str) -> bool:
    """Whether a sealed document, of which `raw` is the whole, is as it was written."""
    seal = str(parse(raw).get(key))
    before, _, after = raw.rpartition(seal.encode(errors="replace") or b"-")
    return hashlib.sha256(before + _ZEROS.encode() + after).hexdigest() == seal


def read(
    path: Path, code: str, key: str | None = None, remedy: str | None = None
) -> dict[str, Any]:
    """The object in a JSON file, without the seal under `key`, where it has one.

    Raises:
        Problem: Exit.CHECKPOINT with `code` and `remedy` if the file is damaged.
    """
    raw = reading.content(path)
    try:
        found = parse(raw)
        if key is not None and key in found and not intact(raw, key):
            raise ValueError("it does not have its own sha256")
    except ValueError as error:
        raise Problem(f"{path} is damaged: {error}", Exit.CHECKPOINT, code, remedy) from error
    if key is not None:
        found.pop(key, None)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
