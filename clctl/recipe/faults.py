"""Validation errors in plain words, each at the value or key that caused it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from clctl.console import Problem
from clctl.recipe.nodes import Node, Place
from clctl.recipe.section import Conflict
from clctl.recipe.words import bare, describe, did_you_mean, given, is_union, mend, nearest

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}


@dataclass(frozen=True)
class Spot:
    """A value that was judged: the type that is wanted, what is there, and its dotted path."""

    kind: Any
    node: Node
    path: str

    @property
    def called(self) -> str:
        """The path as a message names it."""
        return f"`{self.path}`" if self.path else "the recipe"

    @property
    def place(self) -> Place:
        """Of the value, or of its key where the value is a section or nothing."""
        if self.node.key is not None and isinstance(self.node.value, (dict, type(None))):
            return self.node.key
        return self.node.place if self.path else Place(self.node.place.file)

    def within(self, loc: Sequence[int | str]) -> "Spot":
        """The spot at the end of a pydantic location, or the last on the way that is in the tree."""
        spot = self
        for part in loc:
            kind = bare(spot.kind)
            value = spot.node.value
            if is_union(kind):
                if (member := _member(kind, part)) is None:
                    break
                spot = Spot(member, spot.node, spot.path)
            elif isinstance(part, int) and isinstance(value, list) and part < len(value):
                inner = get_args(kind)
                inner = inner[part] if ... not in inner and part < len(inner) else inner[0]
                spot = Spot(inner, value[part], f"{spot.path}[{part}]")
            elif isinstance(part, str) and isinstance(value, dict) and part in value:
                inner = _fields(kind)[part].annotation if part in _fields(kind) else Any
                spot = Spot(inner, value[part], f"{spot.path}.{part}" if spot.path else part)
            else:
                break
        return spot


def explain(error: ValidationError, section: Spot) -> list[Problem]:
    """The problems behind a failed validation of `section`."""
    details = error.errors(include_url=False)
    misspelt: set[tuple[Any, ...]] = set()  # keys that are there are not missing as well
    wrong: dict[str, Problem] = {}  # one to a value: a union gives an error for each member
    problems: list[Problem] = []
    for detail in details:
        *above, key = detail["loc"] or [""]
        owner = section.within(above)
        if detail["type"] == "extra_forbidden" and _fields(owner.kind):
            problems.append(_unknown_key(owner, str(key)))
            misspelt.add((*above, nearest(str(key), _fields(owner.kind))))
    for detail in details:
        kind, loc = detail["type"], detail["loc"]
        if kind == "extra_forbidden" or (kind == "missing" and loc in misspelt):
            continue
        if kind in _LENGTHS and any(_below(d["loc"], loc) for d in details):
            continue  # pydantic counts only the entries that are right themselves
        spot, owner = section.within(loc), section.within(loc[:-1])
        if kind == "missing" and loc[-1] in _fields(owner.kind):
            problems.append(_missing(owner, str(loc[-1])))
        elif kind.startswith("union_tag") or (kind == "dict_type" and _names(spot.kind)):
            problems.append(unknown_name(spot, _names(spot.kind)))
        else:
            wrong.setdefault(spot.path, _wrong_value(spot, detail))
    return problems + list(wrong.values())


def unknown_name(spot: Spot, names: Iterable[str]) -> Problem:
    """The section at `spot` picks nothing of `names`: no section, without `name`, or misspelt."""
    names = sorted(names)
    known = f"known here: {', '.join(names)}"
    if not isinstance(spot.node.value, dict):
        message = f"{spot.called} must be a section, got {given(spot.node)}"
        written = spot.node.value if isinstance(spot.node.value, str) else "..."
        suggestion = f"write `{spot.path}: {{name: {written[:40]}}}`; {known}"
        return spot.place.problem(message, "recipe.type", suggestion)
    name = spot.node.value.get("name")
    if name is None:
        message = f"{spot.called} lacks the required key `name`"
        return spot.place.problem(message, "recipe.missing-key", f"add `name`; {known}")
    shown = given(name).strip('"')
    message = f"there is no {spot.path} named `{shown}`"
    return name.place.problem(message, "recipe.unknown-name", did_you_mean(shown, names))


def blamed(tree: Node, conflict: Conflict) -> Problem:
    """A conflict at the value that it blames, or at the nearest section that is written."""
    spot = Spot(Any, tree, "")
    for part in re.findall(r"[^.\[\]]+", conflict.path):
        value = spot.node.value
        if isinstance(value, dict) and part in value:
            spot = Spot(Any, value[part], part)
        elif isinstance(value, list) and int(part) < len(value):
            spot = Spot(Any, value[int(part)], part)
        else:
            break
    # A list stands where its first entry does, so its key shows better what is meant.
    key = spot.node.key if isinstance(spot.node.value, list) else None
    return (key or spot.place).problem(conflict.message, "recipe.conflict", conflict.suggestion)


def _unknown_key(section: Spot, key: str) -> Problem:
    value = section.node.value
    node = value[key] if isinstance(value, dict) and key in value else section.node
    where = f" in {section.called}" if section.path else ""
    message = f"unknown {'key' if section.path else 'section'} `{key[:64]}`{where}"
    suggestion = did_you_mean(key, _fields(section.kind))
    return (node.key or node.place).problem(message, "recipe.unknown-key", suggestion)


def _missing(section: Spot, key: str) -> Problem:
    message = f"{section.called} lacks the required key `{key}`"
    wanted = describe(_fields(section.kind)[key].annotation)
    suggestion = f"add `{key}`" + (f": {wanted}" if wanted != "a value" else "")
    return section.place.problem(message, "recipe.missing-key", suggestion)


def _wrong_value(spot: Spot, detail: Any) -> Problem:
    error, context = detail["type"], detail.get("ctx", {})
    kind = bare(spot.kind)
    code, suggestion = "recipe.value", None
    if error in _BOUNDS:
        word, key = _BOUNDS[error]
        bound = int(context[key]) if context[key] == int(context[key]) else context[key]
        message = f"{spot.called} must be {word} {bound}, got {given(spot.node)}"
        code = "recipe.range"
    elif error in ("value_error", "assertion_error"):
        message = f"{spot.called}: {context['error']}"
        return _blamed(spot).problem(message, code)
    elif error == "string_pattern_mismatch":
        message = f"{spot.called} must match `{context['pattern']}`, got {given(spot.node)}"
    elif error in _LENGTHS and not _fixed(kind):
        word, key = _LENGTHS[error]
        message = f"{spot.called} must be a list of {word} {context[key]}, got {given(spot.node)}"
        code = "recipe.range"
    elif is_union(kind) or _fixed(kind) or error.endswith(("_type", "literal_error")):
        # An absent entry of a list of fixed length is a fault of the whole list.
        message = f"{spot.called} must be {describe(spot.kind)}, got {given(spot.node)}"
        code, suggestion = "recipe.type", mend(spot.kind, spot.node)
    else:
        message = f"{spot.called}: {detail['msg']}"
    return spot.place.problem(message, code, suggestion)


def _blamed(spot: Spot) -> Place:
    """Of a section that is wrong as a whole, the key that was laid over the file, if one was."""
    keys = spot.node.value.values() if isinstance(spot.node.value, dict) else ()
    return next((k.place for k in keys if k.place.file != spot.place.file), spot.place)


def _fixed(kind: Any) -> bool:
    """Whether a type is a list of a fixed number of entries."""
    return get_origin(kind) is tuple and ... not in get_args(kind)


def _below(loc: Sequence[int | str], above: Sequence[int | str]) -> bool:
    return len(loc) > len(above) and tuple(loc[: len(above)]) == tuple(above)


def _fields(kind: Any) -> dict[str, Any]:
    """The keys of a section type, none for another type."""
    return getattr(bare(kind), "model_fields", {})


def _names(kind: Any) -> list[str]:
    """The values of `name` in a union of sections."""
    sections = map(bare, get_args(bare(kind)))
    return [
        n for s in sections if "name" in _fields(s) for n in get_args(_fields(s)["name"].annotation)
    ]


def _member(kind: Any, tag: int | str) -> Any:
    """The section of a union whose `name` is `tag`."""
    for section in map(bare, get_args(kind)):
        field = _fields(section).get("name")
        if field is not None and tag in get_args(field.annotation):
            return section
    return None
