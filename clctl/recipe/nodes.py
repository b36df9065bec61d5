"""YAML with positions: the plain subset that a recipe needs, every value with its place.

The tree is made from the parser's events, so no tag is ever resolved and no object built.

Differs from YAML 1.2: anchors, aliases and tags are refused, which leaves nothing for an alias
bomb to expand; keys are text as written, `<<` among them, and no key is given twice.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clctl.console import Exit, Problem
from clctl.recipe.scalars import resolve, whole

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 20_000  # keeps the pure Python parser under a second
MAX_EXCERPT = 160

_START = "start from a packaged recipe: clctl recipe byol > mine.yaml"

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column from 1, or only `--set a.b=v`."""

    file: str
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
    width: int = 1

    def problem(self, message: str, code: str, suggestion: str | None = None) -> Problem:
        """A recipe problem at this place."""
        return Problem(
            message,
            Exit.RECIPE,
            code,
            suggestion,
            file=self.file,
            line=self.line,
            column=self.column,
            excerpt=self.excerpt,
            width=self.width,
        )


@dataclass
class Node:
    """A value and its place; `key` is the place of the key that it stands under, if any."""

    value: "str | int | float | bool | dict[str, Node] | list[Node] | None"
    place: Place
    key: Place | None = None

    def plain(self) -> Any:
        """The value without places, as JSON would give it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def load(path: Path, label: str) -> tuple[Node, list[Problem]]:
    """The tree of a file whose top level is a mapping, and what is wrong but did not stop the reading.

    Raises:
        Problem: The file cannot be read, is too large, empty, not UTF-8, not YAML or no mapping.
    """
    file = Place(label)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise file.problem(f"there is no file {label}", "recipe.not-found") from None
    except OSError as error:
        reason = error.strerror or error
        raise file.problem(f"cannot read {label}: {reason}", "recipe.unreadable") from None
    if len(content) > MAX_BYTES:
        raise file.problem(
            "a recipe is at most 1 MiB", "recipe.too-large", "is this the right file?"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].rpartition(b"\n")
        column = len(before[2].decode("utf-8-sig")) + 1
        place = Place(label, before[0].count(b"\n") + bool(before[1]) + 1, column)
        message = f"byte 0x{content[error.start]:02x} is not UTF-8 text"
        raise place.problem(message, "recipe.not-utf8", "save the file as UTF-8") from None
    tree, problems = parse(text, label)
    if tree.value is None:
        raise file.problem(f"{label} is empty", "recipe.empty", _START)
    if not isinstance(tree.value, dict):
        message = "a recipe is a mapping of sections, such as `train:` and `method:`"
        raise tree.place.problem(message, "recipe.not-a-mapping", _START)
    return tree, problems


def parse(text: str, file: str, located: bool = True) -> tuple[Node, list[Problem]]:
    """The tree of one YAML document, and what is wrong but did not stop the reading.

    Args:
        text: The document; an empty one is null.
        file: Shown as the place of every problem.
        located: Whether line and column mean something to the reader of a problem.

    Raises:
        Problem: `text` is not YAML, several documents, too deep or has too many values.
    """
    reading = _Reading(text, file, located)
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return reading.document(loader), reading.problems
    except yaml.reader.ReaderError as error:
        lines = _BREAK.split(text[: error.position])
        place = reading.place(len(lines) - 1, len(lines[-1]))
        character = f"U+{int(error.character):04X}"
        raise place.problem(f"character {character} cannot stand in YAML", "recipe.yaml") from None
    except yaml.MarkedYAMLError as error:
        raise reading.marked(error) from None
    except (ValueError, OverflowError):  # the parser's own, on numbers in escapes and directives
        place = reading.place(loader.line, loader.column) if loader else Place(file)
        raise place.problem("an escape or directive is out of range", "recipe.yaml") from None


class _Reading:
    """One pass over the events of a document."""

    def __init__(self, text: str, file: str, located: bool) -> None:
        self.file, self.located = file, located
        self.lines = _BREAK.split(text)
        self.values = 0
        self.problems: list[Problem] = []

    def document(self, loader: Any) -> Node:
        self.loader = loader
        loader.get_event()
        if loader.check_event(yaml.StreamEndEvent):
            return Node(None, self.place(0, 0))
        loader.get_event()
        root = self.value(loader.get_event(), 1)
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            raise self.at(loader.get_event()).problem(
                "a second document starts here", "recipe.documents", "one recipe to a file"
            )
        return root

    def value(self, event: Any, depth: int) -> Node:
        place = self.at(event)
        self.values += 1
        if depth > MAX_DEPTH:
            raise place.problem(f"nested deeper than {MAX_DEPTH} levels", "recipe.too-deep")
        if self.values > MAX_VALUES:
            raise place.problem(f"more than {MAX_VALUES} values", "recipe.too-large")
        self.refuse_references(event, place)
        if isinstance(event, yaml.MappingStartEvent):
            found, end = self.mapping(depth + 1)
            return Node(found, self.at(event, end))
        if isinstance(event, yaml.SequenceStartEvent):
            value: list[Node] = []
            while not isinstance(end := self.loader.get_event(), yaml.SequenceEndEvent):
                value.append(self.value(end, depth + 1))
            return Node(value, self.at(event, end))
        return Node(self.scalar(event, place), place)

    def mapping(self, depth: int) -> tuple[dict[str, Node], Any]:
        found: dict[str, Node] = {}
        while not isinstance(event := self.loader.get_event(), yaml.MappingEndEvent):
            key = self.value(event, depth)
            node = self.value(self.loader.get_event(), depth)
            node.key = key.place
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(key.place, "a key must be a word", "recipe.key")
            elif (word := whole(event.value)) in found:
                first = found[word].key
                line = f", first in line {first.line}" if first and first.line else ""
                message = f"`{word}` is given twice{line}"
                self.refuse(key.place, message, "recipe.duplicate-key", "keep one of the two")
            elif word is not None:
                found[word] = node
        return found, event

    def scalar(self, event: Any, place: Place) -> str | int | float | bool | None:
        if isinstance(event, yaml.AliasEvent):
            return f"*{event.anchor}"
        text = whole(event.value)
        if text is None:
            self.refuse(place, "text must not hold NUL or half a character", "recipe.text")
            return ""
        if not event.implicit[0]:
            return text
        try:
            return resolve(text)
        except ValueError as error:
            self.refuse(place, f"{error}: {text[:40]}", "recipe.number")
            return text

    def refuse_references(self, event: Any, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            message = f"anchors and aliases are not read: `{mark}{event.anchor}`"
            self.refuse(place, message, "recipe.alias", "write the value out")
        elif event.tag is not None:
            message = "tags (`!`) are not read"
            self.refuse(place, message, "recipe.tag", "write the value without its tag")

    def refuse(self, place: Place, message: str, code: str, suggestion: str | None = None) -> None:
        self.problems.append(place.problem(message, code, suggestion))

    def marked(self, error: yaml.MarkedYAMLError) -> Problem:
        """A syntax error, with the start of the construct that it broke."""
        mark = error.problem_mark or error.context_mark
        place = self.place(mark.line, mark.column) if mark else Place(self.file)
        what = error.problem or "this cannot be read"
        begun = error.context_mark
        if error.context and begun and mark and begun.line != mark.line and self.located:
            what += f" ({error.context} from line {begun.line + 1})"
        tab = "\\t" in what
        return place.problem(
            f"not YAML: {what}",
            "recipe.yaml",
            "indent with spaces, not tabs" if tab else "check brackets, quotes and indentation",
        )

    def at(self, first: Any, last: Any = None) -> Place:
        start, end = first.start_mark, (last or first).end_mark
        return self.place(start.line, start.column, end.column if end.line == start.line else None)

    def place(self, line: int, column: int, end: int | None = 0) -> Place:
        """The place of a mark, counted from 0; `end` is None when it ends on a later line."""
        if not self.located:
            return Place(self.file)
        text = self.lines[line] if line < len(self.lines) else ""
        stop = len(text.rstrip()) if end is None else end
        width = max(stop - column, 1)
        excerpt = text if text.strip() and column + width < MAX_EXCERPT else None
        if excerpt and len(excerpt) > MAX_EXCERPT:
            excerpt = excerpt[: MAX_EXCERPT - 1] + "…"
        return Place(self.file, line + 1, column + 1, excerpt, width)
