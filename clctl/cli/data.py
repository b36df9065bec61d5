"""Commands that look at data before anything is trained."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk

data = typer.Typer(help="Look at data before training.")
app.add_typer(data, name="data")


@data.command()
def scan(
    path: Annotated[str, typer.Argument(help="A folder of pictures, a .npz or a .safetensors.")],
    out: Annotated[
        Path | None,
        typer.Option(*options.OUT, help="A contact sheet .png, or a folder for it and the JSON."),
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Count, measure and compare pictures: classes, sizes, bad files, duplicates; changes nothing.

    Example: clctl data scan ~/photos -o sheet.png
    """
    from clctl.commands.data_scan import Order, data_scan

    return printed(data_scan(Order(path, out), Talk(quiet)), as_json, quiet)


@app.command()
def init(
    path: Annotated[
        str, typer.Argument(help="A folder of pictures, a .npz or a .safetensors.")
    ] = ".",
    out: Annotated[
        Path, typer.Option(*options.OUT, help="The recipe to write; never over a file.")
    ] = Path("recipe.yaml"),
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Write a commented recipe for a folder of pictures.

    Example: clctl init ~/photos -o mine.yaml
    """
    from clctl.commands.init import Order, init

    return printed(init(Order(path, out), Talk(quiet)), as_json, quiet)
