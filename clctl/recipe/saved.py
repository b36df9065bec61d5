"""A recipe that is not in a file of the user's: one that a checkpoint carries, one on other data."""

import json
from shlex import quote
from typing import Any

from clctl.console import Exit, Problem
from clctl.recipe.identity import resolved
from clctl.recipe.nodes import Node, parse
from clctl.recipe.read import point, together, validated
from clctl.recipe.sections import Recipe


def from_resolved(document: dict[str, Any], label: str) -> Recipe:
    """The recipe that `identity.resolved` gave.

    Args:
        label: What problems call it.

    Raises:
        Problem: Exit.CHECKPOINT if this version of clctl cannot read it.
    """
    tree, problems = parse(json.dumps(document), label)
    recipe, faults = validated(tree)
    if recipe is None or problems or faults:
        first = (problems + faults)[0]
        raise Problem(
            f"{label} holds a recipe that this version cannot read: {first.message}",
            Exit.CHECKPOINT,
            "checkpoint.recipe",
            "use the version of clctl that wrote it",
        )
    return recipe


def with_data(recipe: Recipe, data: str) -> Recipe:
    """The same recipe with --data laid over it.

    Raises:
        Problem: If `data` is not what a source can take.
    """
    label = f"--data {data}"
    document = resolved(recipe)
    if document["data"]["name"] == "folder" and document["data"]["labels"] != "folders":
        # How the run's own pictures were labelled, or that they were not, is no word on others.
        del document["data"]["labels"]
    tree, problems = parse(json.dumps(document), label)
    assert isinstance(tree.value, dict)
    sections: dict[str, Node] = tree.value
    problems += point(sections, data)
    found, faults = validated(tree)
    if found is None or problems or faults:
        raise together(problems + faults, label, f"clctl validate --data {quote(data)}")
    return found
