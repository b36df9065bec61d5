"""Commands for whoever gets an encoder: is it whole, and what does it find alike."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def neighbors(
    subject: options.SUBJECT,
    queries: Annotated[
        list[Path] | None,
        typer.Option("--query", metavar="IMAGE", help="A picture to look for; repeatable."),
    ] = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: Annotated[
        Path | None, typer.Option(*options.OUT, help="A gallery to write: .png or .html.")
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Show which pictures are the nearest to some; needs no labels.

    Example: clctl neighbors runs/byol-1f6c2a90 -o gallery.html
    """
    from clctl.commands.neighbors import Order, neighbors

    order = Order(subject, data, tuple(queries or ()), split, device, out)
    return printed(neighbors(order, Talk(quiet)), as_json, quiet)


@app.command()
def verify(
    ckpt: Annotated[
        str, typer.Argument(help="A run, checkpoint or export folder, or a file of weights.")
    ],
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Check the checksums, numbers and names of a checkpoint, or of all that a run has.

    Example: clctl verify runs/byol-1f6c2a90
    """
    from clctl.commands.verify import verify

    return printed(verify(ckpt, Talk(quiet)), as_json, quiet)
