"""A recipe from a file, with `--data` and `--set` laid over it; every mistake is told at once."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clctl.console import Exit, Problem
from clctl.recipe.faults import Spot, blamed, explain, unknown_name
from clctl.recipe.nodes import MAX_DEPTH, Node, Place, load, parse
from clctl.recipe.plugins import config, known, module
from clctl.recipe.scalars import whole
from clctl.recipe.section import Plugin
from clctl.recipe.sections import Recipe
from clctl.recipe.words import nearest, spelt_out

MAX_SHOWN = 20
# Section and key of a path; where it may be a word instead, what tells a path by its end.
_PATHS = (
    ("data", "path", ""),
    ("data", "root", ""),
    ("data", "labels", ".csv"),
    ("encoder", "weights", ".safetensors"),
)


def packaged() -> dict[str, Path]:
    """The recipes that come with clctl, by name, such as "byol" and "cifar10/byol"."""
    folder = _packaged_folder()
    found = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def find(reference: str) -> Path:
    """The file that a RECIPE argument means: a path, else the name of a packaged recipe.

    Raises:
        Problem: It is neither.
    """
    path = Path(os.path.expanduser(reference))
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    names = packaged()
    name = re.sub(r"\.ya?ml$", "", reference)
    if name in names:
        return names[name]
    if os.path.isdir(path):
        message = f"{reference} is a folder, and a recipe is a file"
        raise Problem(message, Exit.RECIPE, "recipe.not-found", "clctl list recipes")
    close = spelt_out(name, names) or nearest(name, names) or nearest(Path(name).name, names)
    raise Problem(
        f"there is no recipe {reference}: neither a file nor a packaged recipe of this name",
        Exit.RECIPE,
        "recipe.not-found",
        (f"did you mean `{close}`? " if close else "") + f"packaged: {', '.join(names)}",
    )


def read(
    path: Path,
    overrides: Sequence[str] = (),
    data: str | None = None,
    label: str | None = None,
) -> Recipe:
    """The recipe in a file.

    Args:
        path: The file, YAML or JSON.
        overrides: "a.b=value" of each --set, applied last and in order; the value is YAML.
        data: Of --data: the name of a source, else a path.
        label: What problems call the file; its path unless given.

    Raises:
        Problem: All that is wrong: the first mistake, with the others in `others`.
    """
    label = label or str(path)
    tree, problems = load(path, label)
    sections = _mapping(tree)
    if "name" not in sections:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")
        sections["name"] = Node(name or "recipe", Place(label))
    own = path.resolve().is_relative_to(_packaged_folder().resolve())
    _anchor(tree, Path.cwd() if own else path.parent)
    if data is not None:
        problems += point(sections, data)
    for text in overrides:
        problems += _override(tree, text)
    _anchor(tree, Path.cwd())
    recipe, faults = validated(tree)
    refused = {(p.file, p.line, p.column) for p in problems}
    problems += [p for p in faults if p.line is None or (p.file, p.line, p.column) not in refused]
    if recipe is not None and not problems:
        return recipe
    command = ["clctl", "validate", label, *(["--data", data] if data is not None else [])]
    for text in overrides:
        command += ["--set", text]
    raise together(problems, label, shlex.join(command))


def _packaged_folder() -> Path:
    """Of a wheel, inside the package; of a checkout, beside it."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def _plugins() -> dict[str, str]:
    """The sections whose `name` picks a module, with the package of those modules."""
    return {
        key: mark.package
        for key, field in Recipe.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Plugin)
    }


def _anchor(tree: Node, folder: Path) -> None:
    """Make the relative paths of a recipe count from `folder`: those of `_PATHS`."""
    for name, key, ending in _PATHS:
        section = _mapping(tree).get(name)
        path = _mapping(section).get(key) if section else None
        if path is None or not isinstance(path.value, str) or not path.value:
            continue
        if path.value.lower().endswith(ending):
            # Not normalised: `..` behind a link means the link's own parent.
            path.value = str(Path(folder, os.path.expanduser(path.value)).absolute())


def point(sections: dict[str, Node], data: str) -> list[Problem]:
    """Lay --data over the tree: a source by its name, else one that can read the path."""
    place = Place(f"--data {data}")
    if not data or whole(data) is None:
        message = "--data must be a name or a path in UTF-8"
        return [place.problem(message, "recipe.text", "rename the folder or link to it")]
    fields: dict[str, Node] = {}
    path = Path(os.path.expanduser(data)).absolute()
    if data in known(_plugins()["data"]):
        source = data
    else:
        tensors = path.suffix.lower() in (".npz", ".safetensors") or os.path.isfile(
            path / "train.npz"
        )
        source = "arrays" if tensors else "folder"
        if path.suffix.lower() == ".csv":  # labels of the pictures beside and below it
            fields["labels"] = Node(str(path), place, place)
            path = path.parent
        fields["path"] = Node(str(path), place, place)
    section = sections.get("data")
    keys = _mapping(section) if section else {}
    if "name" in keys and keys["name"].value == source:
        keys.update(fields)
    else:
        sections["data"] = Node({"name": Node(source, place, place), **fields}, place, place)
    return []


def _override(tree: Node, text: str) -> list[Problem]:
    """Lay one --set over the tree, making the sections on its way."""
    place = Place(f"--set {text}")
    target, given, value = text.partition("=")
    parts = target.strip().split(".")
    if not given or not all(parts) or whole(text) is None:
        message = "--set takes a key and a value"
        return [place.problem(message, "recipe.set", "--set train.epochs=10")]
    if len(parts) > MAX_DEPTH:
        return [place.problem(f"nested deeper than {MAX_DEPTH} levels", "recipe.too-deep")]
    try:
        node, problems = parse(value, place.file, located=False)
    except Problem as problem:
        return [problem]
    if problems:
        return problems
    at = tree
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        last = depth == len(parts) - 1
        if at.value is None:
            at.value = {}
        if isinstance(at.value, list):
            if not part.isdecimal() or len(part) > 6 or int(part) >= len(at.value):
                message = (
                    f"`{here}` is a list of {len(at.value)}: `{part}` is not one of its places"
                )
                return [place.problem(message, "recipe.set", f"--set {here}.0=...")]
            if last:
                at.value[int(part)] = node
            at = at.value[int(part)]
        elif isinstance(at.value, dict):
            new = node if last else at.value.get(part) or Node({}, place)
            new.key = new.key or place
            at.value[part] = at = new
        else:
            message = f"`{here}` is not a section, so it has no `{part}`"
            return [place.problem(message, "recipe.set", f"--set {here}=...")]
    return []


def validated(tree: Node) -> tuple[Recipe | None, list[Problem]]:
    """The recipe of a tree, to be used if there are no problems."""
    problems: list[Problem] = []
    chosen: dict[str, Any] = {}
    for key, package in _plugins().items():
        if (node := _mapping(tree).get(key)) is None:
            continue  # told by the validation of the whole
        name = _mapping(node).get("name")
        names = known(package)
        if name is None or not isinstance(name.value, str) or module(name.value) not in names:
            problems.append(unknown_name(Spot(Any, node, key), names))
            continue
        model = config(package, name.value)
        try:
            chosen[key] = model.model_validate_json(json.dumps(node.plain()))
        except ValidationError as error:
            problems += explain(error, Spot(model, node, key))
    try:
        # As JSON, since lists become tuples there while no other type is converted.
        recipe = Recipe.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        return None, problems + explain(error, Spot(Recipe, tree, ""))
    recipe = recipe.model_copy(update=chosen)
    if not problems:
        problems = [
            blamed(tree, conflict)
            for section in (*chosen.values(), recipe.report)
            for conflict in section.conflicts(recipe)
        ]
    return recipe, problems


def together(problems: Sequence[Problem], label: str, command: str) -> Problem:
    """The first problem in the order of the file, holding the others."""
    each = sorted(problems, key=lambda p: (p.file != label, p.line or 0, p.column or 0))
    first, *others = each[:MAX_SHOWN]
    if others:
        shown = f", of which {MAX_SHOWN} are shown" if len(each) > MAX_SHOWN else ""
        check = f"{command}   (mend these {len(each)} errors{shown}; nothing was started)"
        last = others[-1]
        last.suggestion = f"{last.suggestion}\n  and: {check}" if last.suggestion else check
    first.others = tuple(others)
    return first


def _mapping(node: Node) -> dict[str, Node]:
    """The keys of a section, none for what is no section; a change reaches the tree."""
    return node.value if isinstance(node.value, dict) else {}
