"""The program that the commands are part of, and how it prints what they give."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

import clctl
from clctl.console import Exit, clean, dump

if TYPE_CHECKING:
    from clctl.report.document import Report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def printed(report: "Report", as_json: bool, quiet: bool) -> int:
    """Print a report to stdout in the form that was asked for; gives the exit code."""
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
