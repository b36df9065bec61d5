"""Commands about this machine and its editors."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def doctor(as_json: options.JSON = False, quiet: options.QUIET = False) -> int:
    """Check this machine and train for five seconds; exit 1 if something would stop a run.

    The answer names no host, user or home folder, so that it can be pasted.

    Example: clctl doctor
    """
    from clctl.commands.doctor import doctor

    return printed(doctor(Talk(quiet)), as_json, quiet)


@app.command()
def schema(
    out: Annotated[
        Path | None, typer.Option(*options.OUT, help="A .json to write, instead of stdout.")
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Give the JSON Schema of a recipe, with which an editor completes and checks YAML.

    Example: clctl schema -o recipe.schema.json
    """
    from clctl.commands.schema import schema

    return printed(schema(out), as_json, quiet)
