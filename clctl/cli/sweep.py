"""The command that trains and scores many recipes alike."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def sweep(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE...", help="Recipe files, or names of packaged recipes."),
    ],
    out: Annotated[
        Path, typer.Option(*options.OUT, help="The folder for runs/, rows/ and the table.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", help="Train each with seeds 0 to N - 1.")] = 2,
    max_time: options.MAX_TIME = None,
    data: options.DATA = None,
    overrides: options.SET = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Train and score several recipes with several seeds, into one table.

    The same command again goes on. Put rows/ of another machine into rows/ to see both in the table.

    Example: clctl sweep simclr byol simsiam --out sweeps/digits --seeds 3 --max-time 8h
    """
    from clctl.commands._stop import Stop

    with Stop(None).listening():  # torch takes seconds to import
        from clctl.commands.sweep import Order, sweep

    changes = tuple(overrides or ())
    order = Order(tuple(recipes), out, seeds, max_time, data, changes, device)
    return printed(sweep(order, Talk(quiet)), as_json, quiet)
