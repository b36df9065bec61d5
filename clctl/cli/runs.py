"""Commands about a folder of runs."""

from pathlib import Path
from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk

FOLDER = Annotated[Path, typer.Argument(help="The folder that the runs lie in.")]
RUNS = Path("runs")

runs = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(runs, name="runs", help="List runs, show one, find the best, remove what may go.")


@runs.command()
def ls(folder: FOLDER = RUNS, as_json: options.JSON = False, quiet: options.QUIET = False) -> int:
    """List the runs: state, method, encoder, data, steps, score, size; the newest first.

    Example: clctl runs ls
    """
    from clctl.commands.runs import ls

    return printed(ls(folder), as_json, quiet)


@runs.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Show one run: its recipe's differences, checkpoints, scores, disk, what to type next.

    Example: clctl runs show runs/byol-1f6c2a90
    """
    from clctl.commands.runs import show

    return printed(show(run), as_json, quiet)


@runs.command()
def best(
    folder: FOLDER = RUNS,
    metric: Annotated[str, typer.Option("--metric", help="Of the evaluations.")] = "top1",
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Name the best run, among scores of the same images by the same protocol.

    With -q the folder alone: clctl export "$(clctl runs best -q)" --to onnx

    Example: clctl runs best --metric balanced_accuracy
    """
    from clctl.commands.runs import Best, best

    return printed(best(Best(folder, metric), Talk(quiet)), as_json, quiet)


@runs.command()
def clean(
    folder: FOLDER = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """List what may go, ask, and remove it; nothing of a run that is in use.

    That is: of runs that are done, checkpoints but the newest whole one; runs that failed or
    collapsed before their first checkpoint; drafts of writers that died.

    Example: clctl runs clean --yes
    """
    from clctl.commands.runs import Clean, clean

    return printed(clean(Clean(folder, yes), Talk(quiet)), as_json, quiet)
