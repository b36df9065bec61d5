"""Types, values and names in plain words, for people who write recipes."""

import difflib
import json
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from clctl.recipe.nodes import Node

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false each"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}
_SWITCHES = {"on": "true", "yes": "true", "off": "false", "no": "false"}


def describe(kind: Any, many: bool = False) -> str:
    """A type in plain words, such as "a list of 2 numbers"."""
    args = get_args(kind)
    if get_origin(kind) is Annotated:
        return describe(args[0], many)
    if is_union(kind):
        words = dict.fromkeys(describe(a, many) for a in args if a is not types.NoneType)
        return " or ".join([*words, *(["null"] if types.NoneType in args else [])])
    if get_origin(kind) is Literal:
        words = [str(a) for a in args]
        return f"one of {', '.join(words)}" if len(words) > 1 else f"`{words[0]}`"
    if get_origin(kind) in (tuple, list):
        inner = {describe(a, True) for a in args if a is not ...}
        count = f"{len(args)} " if get_origin(kind) is tuple and ... not in args else ""
        return f"a list of {count}{inner.pop() if len(inner) == 1 else 'values'}"
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, (BaseModel, dict))):
        return "sections" if many else "a section"
    return _WORDS.get(kind, ("a value", "values"))[many]


def given(node: Node) -> str:
    """What stands at a node, in a few words."""
    if isinstance(node.value, dict):
        return "a section"
    if isinstance(node.value, list):
        return f"a list of {len(node.value)}"
    if node.value is None:
        return "nothing"
    text = json.dumps(node.value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def mend(kind: Any, node: Node) -> str | None:
    """What to write in place of a value that is not of type `kind`, where that can be told."""
    value, wanted = node.value, describe(kind)
    if get_origin(bare(kind)) is Literal and isinstance(value, str):
        close = nearest(value, [str(a) for a in get_args(bare(kind))])
        return f"did you mean `{close}`?" if close else None
    if wanted.startswith("a section") and value is None:
        return "write its keys indented below it, or remove it"
    if isinstance(value, float) and value.is_integer() and "whole number" in wanted:
        return f"did you mean `{int(value)}`?"
    if isinstance(value, str) and value.lower() in _SWITCHES and "true" in wanted:
        return f"did you mean `{_SWITCHES[value.lower()]}`?"
    if isinstance(value, str) and re.fullmatch(r"[-+.0-9eE_]+", value) and "number" in wanted:
        return "write a plain number, without quotes, underscores or needless zeros"
    if isinstance(value, (bool, int, float)) and wanted.startswith(("text", "a path")):
        return f'put it in quotes: "{given(node)}"'
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of `known`, and all of them."""
    names = sorted(known)
    close = nearest(word, names)
    return (f"did you mean `{close}`? " if close else "") + f"known here: {', '.join(names)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name of `known` that is spelt most like `word`, if any is."""
    close = difflib.get_close_matches(word[:64].lower(), list(known), n=1)
    return close[0] if close else None


def spelt_out(name: str, known: Iterable[str]) -> str | None:
    """The longest of `known` whose words are all in a name: `cifar10/simclr` in "simclr-cifar10"."""
    between = re.compile(r"[-_/.]")
    words = set(between.split(name.lower()))
    return max((k for k in known if words.issuperset(between.split(k))), key=len, default=None)


def is_union(kind: Any) -> bool:
    """Whether a type is a union, null included."""
    return get_origin(kind) in (Union, types.UnionType)


def bare(kind: Any) -> Any:
    """A type without its constraints, and without null where one other type is left."""
    while get_origin(kind) is Annotated or is_union(kind):
        args = get_args(kind)
        others = args[:1] if get_origin(kind) is Annotated else args
        others = [a for a in others if a is not types.NoneType]
        if len(others) != 1:
            break
        kind = others[0]
    return kind
