"""clctl recipe: a packaged recipe on stdout, as it is in its file."""

from clctl.console import Exit, Problem
from clctl.recipe.read import find, packaged
from clctl.report.document import Report


def recipe(name: str) -> Report:
    """The text of a packaged recipe.

    Raises:
        Problem: If no packaged recipe has this name.
    """
    path = packaged().get(name.removesuffix(".yaml"))
    if path is None:
        find(name)  # says what is near, unless it is a file of the user's
        raise Problem(
            f"{name} is a file, not a packaged recipe", Exit.RECIPE, "recipe.not-found", "cat it"
        )
    text = path.read_text("utf-8")
    return Report({"schema": "clctl/recipe/1", "name": name, "text": text}, text.rstrip("\n"), name)
