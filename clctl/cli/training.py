"""Commands that make a checkpoint, and hand it over."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, a packaged recipe's name, or a run to continue.")
    ],
    data: options.DATA = None,
    overrides: options.SET = None,
    device: options.DEVICE = "auto",
    init_from: options.INIT_FROM = None,
    max_time: options.MAX_TIME = None,
    on_nan: options.ON_NAN = "stop",
    dry_run: options.DRY_RUN = False,
    fresh: options.FRESH = False,
    download: options.DOWNLOAD = False,
    out: Annotated[
        Path | None, typer.Option(*options.OUT, help="The run's folder. Default: runs/NAME-HASH.")
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Train an encoder; the same command again continues where it stopped.

    Example: clctl pretrain folder --data ~/photos --set train.epochs=50
    """
    from clctl.commands._stop import Stop

    with Stop(None).listening():  # torch takes seconds to import
        from clctl.commands import _place, _ranks
        from clctl.commands.pretrain import Order, pretrain

    changes = tuple(overrides or ())
    if count := _place.wanted(device):
        from clctl.commands._torchrun import launch

        return launch(sys.argv[1:], count)
    with _ranks.together(device) as here:
        asked = (init_from, max_time, dry_run, fresh, download, out, on_nan)
        order = Order(recipe, changes, data, here.device, *asked)
        report = pretrain(order, Talk(quiet or here.follows))
        here.code = int(report.exit) if here.follows else printed(report, as_json, quiet)
        return here.code


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="safetensors, torchvision, timm or onnx.")],
    ckpt: Annotated[
        str | None,
        typer.Argument(metavar="[CKPT]", help="A run or checkpoint folder, or a file of clctl."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="RECIPE", help="No CKPT: untrained weights of a recipe."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run both sides, print the largest difference.")
    ] = False,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            *options.OUT, help="Gets the folder NAME-TARGET. Default: the run's exports/."
        ),
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Hand the encoder to another tool: weights, config, preprocessing, card, checksums.

    Example: clctl export runs/byol-1f6c2a90 --to onnx --verify
    """
    from clctl.commands.export import Order, export

    order = Order(ckpt, to, verify, data, split, device, out, init)
    return printed(export(order, Talk(quiet)), as_json, quiet)
