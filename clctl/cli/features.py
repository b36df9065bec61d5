"""Commands about features themselves, with or without labels."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def diagnose(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="CKPT|FILE", help="A run, or a .npy, .npz or .safetensors of features."
        ),
    ],
    layers: options.LAYERS = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Say whether features are healthy or collapsed; needs no labels.

    Example: clctl diagnose embeddings.npy
    """
    from clctl.commands.diagnose import Order, diagnose

    order = Order(subject, data, split, device, out, layers)
    return printed(diagnose(order, Talk(quiet)), as_json, quiet)


@app.command()
def embed(
    ckpt: options.CKPT,
    out: Annotated[Path, typer.Option(*options.OUT, help="A .npz, .npy or .safetensors to write.")],
    layers: options.LAYERS = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Write the features of every picture, with labels and ids; a stopped call is continued.

    Example: clctl embed runs/byol-1f6c2a90 --data ~/photos -o features.npz
    """
    from clctl.commands.embed import Order, embed

    order = Order(ckpt, out, data, split, device, layers)
    return printed(embed(order, Talk(quiet)), as_json, quiet)
