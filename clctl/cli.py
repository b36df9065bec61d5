"""The command line: parse, call one function of `commands`, print what it gives.

Nothing heavy is imported here: `--help` and `list` answer before torch could load.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clctl
from clctl import options
from clctl.console import Exit, Talk, clean, dump

if TYPE_CHECKING:
    from clctl.report.document import Report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print(report: "Report", as_json: bool, quiet: bool) -> int:
    text = dump(report.document) if as_json else report.short if quiet else report.text
    encoding = sys.stdout.encoding or "utf-8"
    shown = text if as_json else clean(text)
    print(shown.encode(encoding, "replace").decode(encoding), flush=True)
    return int(report.exit)


def _version(asked: bool) -> None:
    if asked:
        print(f"clctl {clctl.__version__}")
        raise typer.Exit(int(Exit.OK))


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Self-supervised, contrastive pretraining and evaluation.

    Start with: clctl pretrain byol
    """


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
    from clctl.commands.pretrain import Order, pretrain

    changes = tuple(overrides or ())
    order = Order(
        *(recipe, changes, data, device, init_from, max_time, dry_run, fresh, download, out)
    )
    return _print(pretrain(order, Talk(quiet)), as_json, quiet)


@app.command("knn-eval")
def knn_eval(
    ckpt: options.CKPT,
    k: Annotated[int, typer.Option("--k", help="Neighbours that vote.")] = 20,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of the weights exp(cosine / temperature).")
    ] = 0.07,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: Annotated[
        Path | None, typer.Option(*options.OUT, help="Also write the JSON here.")
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Score a checkpoint by its nearest neighbours.

    Example: clctl knn-eval runs/byol-1f6c2a90 --fail-under top1=0.70
    """
    from clctl.commands._evaluation import Evaluate
    from clctl.commands.knn_eval import Neighbours, knn_eval

    order = Evaluate(ckpt, data, split, device, fail_under, out)
    report = knn_eval(order, Neighbours(k, temperature), Talk(quiet))
    return _print(report, as_json, quiet)


@app.command("linear-probe")
def linear_probe(
    ckpt: options.CKPT,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: Annotated[
        Path | None, typer.Option(*options.OUT, help="Also write the JSON here.")
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Score a checkpoint by a linear classifier on its frozen features.

    Example: clctl linear-probe runs/byol-1f6c2a90 --data labelled/ --json
    """
    from clctl.commands._evaluation import Evaluate
    from clctl.commands.linear_probe import linear_probe

    order = Evaluate(ckpt, data, split, device, fail_under, out)
    return _print(linear_probe(order, Talk(quiet)), as_json, quiet)


@app.command()
def export(
    ckpt: options.CKPT,
    to: Annotated[str, typer.Option("--to", help="safetensors, torchvision, timm or onnx.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Run both sides, print the largest difference.")
    ] = False,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: Annotated[
        Path | None,
        typer.Option(*options.OUT, help="Folder to write into. Default: the run's exports/."),
    ] = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Hand the encoder's weights to another tool, with the lines that load them.

    Example: clctl export runs/byol-1f6c2a90 --to onnx --verify
    """
    from clctl.commands.export import Order, export

    order = Order(ckpt, to, verify, data, split, device, out)
    return _print(export(order, Talk(quiet)), as_json, quiet)


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

    return _print(validate(recipes, data, overrides or [], device), as_json, quiet)


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

    return _print(list_(what), as_json, quiet)


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

    return _print(recipe(name), as_json, quiet=False)


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
    return _print(report, as_json, quiet)


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

    return _print(inspect(ckpt, data, split, Talk(quiet)), as_json, quiet)
