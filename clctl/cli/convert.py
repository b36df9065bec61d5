"""The command that opens checkpoints of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def convert(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A .pth, .pt or .ckpt of another program.")
    ],
    to: Annotated[str, typer.Option("--to", help="safetensors.")] = "safetensors",
    trusted: Annotated[
        bool,
        typer.Option(
            "--i-trust-this-file", help="A pickle is a program: open it only if you know its maker."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(*options.OUT, help="The file to write. Default: FILE as .safetensors."),
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Turn a checkpoint of MoCo, DINO, lightly and others into weights to start from.

    Example: clctl convert moco_v2_800ep.pth --to safetensors --i-trust-this-file
    """
    from clctl.commands.convert import Order, convert

    return printed(convert(Order(file, to, trusted, out), Talk(quiet)), as_json, quiet)
