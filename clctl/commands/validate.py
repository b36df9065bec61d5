"""clctl validate: read recipes as a run would, and build what they name."""

from clctl.commands import _setup
from clctl.console import Exit, Problem
from clctl.recipe import identity
from clctl.recipe.read import find, read
from clctl.report.document import Report


def validate(recipes: list[str], data: str | None, overrides: list[str], device: str) -> Report:
    """Check every recipe; all mistakes of all of them are told at once.

    Raises:
        Problem: Exit.RECIPE, with the mistakes of further files in `others`.
    """
    found, lines, wrong = [], [], []
    for name in recipes:
        try:
            recipe = read(find(name), overrides, data)
            _setup.machine(device, recipe.train.precision)
            method = _setup.method(recipe)
        except Problem as problem:
            wrong.append(problem)
            continue
        found.append({"file": name, "ok": True, "recipe": identity.resolved(recipe)})
        weights = _setup.parameters(method)
        lines.append(f"{name}: ok, {recipe.method.name} on {recipe.data.name}, {weights:,} weights")
    if wrong:
        first, *rest = wrong
        first.others = (*first.others, *rest)
        raise first
    return Report({"schema": "clctl/validate/1", "recipes": found}, "\n".join(lines), "ok", Exit.OK)
