"""The command about speed."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def bench(
    recipe: options.RECIPE,
    data: options.DATA = None,
    overrides: options.SET = None,
    device: options.DEVICE = "auto",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=3, help="Steps to time. Default: 20, fewer if they take long."),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE.json", help="Also write a Chrome trace here."),
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Time a few training steps: which stage takes how long, and what would be faster.

    Nothing is written but the trace. Under torchrun it also tells what ranks send each other.

    Example: clctl bench simclr --set train.batch_size=256
    """
    begun = time.perf_counter()
    from clctl.commands import _place, _ranks
    from clctl.commands.bench import Order, bench

    imported = time.perf_counter() - begun
    changes = tuple(overrides or ())
    if count := _place.wanted(device):
        from clctl.commands._torchrun import launch

        return launch(sys.argv[1:], count)
    with _ranks.together(device) as here:
        order = Order(recipe, changes, data, here.device, steps, profile)
        report = bench(order, Talk(quiet or here.follows), imported)
        here.code = int(report.exit) if here.follows else printed(report, as_json, quiet)
        return here.code
