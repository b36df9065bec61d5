"""clctl schema: what an editor needs to complete and check recipes."""

from pathlib import Path

from clctl.console import dump
from clctl.recipe.schema import schema as made
from clctl.report.document import Report
from clctl.store import files


def schema(out: Path | None) -> Report:
    """The JSON Schema of a recipe, in the report or, where `out` is given, in that file.

    Raises:
        Problem: If `out` cannot be written.
    """
    whole = made()
    if out is None:
        document = {"schema": "clctl/schema/1", "path": None, "recipe": whole}
        return Report(document, dump(whole), "schema")
    files.make(out.absolute().parent)
    files.write(out, dump(whole).encode() + b"\n")
    text = f"{out}\nfirst line of a recipe: # yaml-language-server: $schema={out.absolute()}"
    return Report({"schema": "clctl/schema/1", "path": str(out), "recipe": whole}, text, str(out))
