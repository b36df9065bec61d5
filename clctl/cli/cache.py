"""Commands about the pictures that are kept decoded on this machine."""

from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk

cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    cache,
    name="cache",
    help="Show or clear the pictures that are kept decoded on this machine.",
)


@cache.command()
def ls(as_json: options.JSON = False, quiet: options.QUIET = False) -> int:
    """Show what is kept: name, pictures, size, last use, folder.

    Example: clctl cache ls
    """
    from clctl.commands.cache import ls

    return printed(ls(), as_json, quiet)


@cache.command()
def clear(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or folders as of ls. Default: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Remove decoded pictures, but none in use; they are decoded again when needed.

    Downloaded sets, in datasets/ beside them, stay.

    Example: clctl cache clear photos --yes
    """
    from clctl.commands.cache import Order, clear

    return printed(clear(Order(tuple(names or ()), yes), Talk(quiet)), as_json, quiet)
