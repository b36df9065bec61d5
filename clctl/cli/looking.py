"""Commands that show what there is, and change nothing."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command()
def validate(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files or packaged names.")],
    data: options.DATA = None,
    overrides: options.SET = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Check recipes, all mistakes at once, without starting anything.

    Example: clctl validate mine.yaml --set train.epochs=10
    """
    from clctl.commands.validate import validate

    return printed(validate(recipes, data, overrides or [], device), as_json, quiet)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, encoders, data or recipes.")],
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Show what there is to choose from.

    Example: clctl list methods
    """
    from clctl.commands.list import list_

    return printed(list_(what), as_json, quiet)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="A packaged recipe: see clctl list recipes.")],
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Print a packaged recipe, to start your own from.

    Example: clctl recipe folder > mine.yaml
    """
    from clctl.commands.recipe import recipe

    return printed(recipe(name), as_json, quiet=False)


@app.command()
def views(
    recipe: options.RECIPE,
    out: Annotated[Path, typer.Option(*options.OUT, help="The picture to write, a .png.")],
    data: options.DATA = None,
    overrides: options.SET = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Draw what the encoder will see: original, view 1, view 2, with their parameters.

    Example: clctl views folder --data ~/photos -o views.png
    """
    from clctl.commands.views import views

    report = views(recipe, tuple(overrides or ()), data, device, out, Talk(quiet))
    return printed(report, as_json, quiet)


@app.command()
def inspect(
    ckpt: options.CKPT,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Show what a checkpoint holds and where it comes from, without loading it.

    Example: clctl inspect runs/byol-1f6c2a90
    """
    from clctl.commands.inspect import inspect

    return printed(inspect(ckpt, data, split, Talk(quiet)), as_json, quiet)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or a sweep's.")],
    out: Annotated[Path, typer.Option(*options.OUT, help="The page to write, a .html.")],
    data: options.DATA = None,
    device: options.DEVICE = "auto",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Write one page on a run, or on several together: verdict, curves, scores, pictures.

    Example: clctl report runs/byol-1f6c2a90 -o report.html
    """
    from clctl.commands.report import Order, report

    return printed(report(Order(tuple(runs), out, data, device), Talk(quiet)), as_json, quiet)
