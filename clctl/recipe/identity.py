"""What makes two runs the same: the part of a recipe that changes weights, and its digest."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast

from clctl.recipe.sections import Recipe

_BESIDE = (
    "name",
    "guard",
    "checkpoint",
    "report",
)  # they name and watch a run, and leave its weights alone
_PLACES = ("path", "root", "verify")  # of data: where it lies and how it is checked, not what it is
# Keys that came later, at what is done without them: runs from before them stay the same run.
_LATER = (("train", "compile", False), ("views", "color", "exact"))
_ABSENT = object()


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values with every default written out; `read` takes it back."""
    return recipe.model_dump(mode="json")


def weights_part(recipe: Recipe, fingerprint: str, init: str | None) -> dict[str, Any]:
    """What changes weights, as JSON values.

    Args:
        recipe: The recipe.
        fingerprint: Of the data; it stands for the path, so that data may be moved.
        init: Identity of the encoder that the run starts from, None for random weights; it
            stands for the path of `encoder.weights`.
    """
    part = {key: value for key, value in resolved(recipe).items() if key not in _BESIDE}
    for section, key, default in _LATER:
        rest = {k: v for k, v in part[section].items() if (k, v) != (key, default)}
        part = {**part, section: rest}
    data = {key: value for key, value in part["data"].items() if key not in _PLACES}
    if str(data.get("labels", "")).lower().endswith(".csv"):
        del data["labels"]  # a place as well; what the file says is in the fingerprint
    encoder = {key: value for key, value in part["encoder"].items() if key != "weights"}
    data["fingerprint"] = fingerprint
    return {**part, "data": data, "encoder": encoder, "init": init}


def digest(part: dict[str, Any]) -> str:
    """First 8 hexadecimal digits of the SHA-256 of `part` as canonical JSON."""
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each value that differs, such as "train.epochs: 100 -> 200"."""
    return [f"{path}: {before} -> {after}" for path, before, after in changes(old, new)]


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each value that differs: its path, and the old and the new one in words."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    return [
        (path, _word(before.get(path, _ABSENT)), _word(after.get(path, _ABSENT)))
        for path in sorted({*before, *after})
        if before.get(path, _ABSENT) != after.get(path, _ABSENT)
    ]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Values with their paths; a list of plain values is one value."""
    if isinstance(value, dict) and value:
        for key, item in cast(dict[str, Any], value).items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(i, dict) for i in cast(list[Any], value)):
        for index, item in enumerate(cast(list[Any], value)):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _word(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
