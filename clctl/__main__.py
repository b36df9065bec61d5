"""`clctl` and `python -m clctl`: one way in, and one way out for everything that goes wrong."""

import os
import sys
import tempfile
import traceback
from typing import Any

from clctl.console import Exit, Problem, dump


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except Problem as problem:
        code = _fail(problem, as_json)
    except KeyboardInterrupt:
        stop = Problem("interrupted; nothing was lost", Exit.INTERRUPTED, "interrupted")
        code = _fail(stop, as_json)
    except BrokenPipeError:
        # The reader of our stdout left. Point it elsewhere, or the interpreter's own flush fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        code = _fail(_resources(error) or _bug(error), as_json)
    raise SystemExit(int(code))


def _run(arguments: list[str]) -> int:
    import typer

    from clctl.cli import app

    command = typer.main.get_command(app)
    try:
        return int(command.main(arguments, prog_name="clctl", standalone_mode=False) or 0)
    except Exception as error:
        # Typer carries its own copy of click, so its errors are known by what they can do.
        usage: Any = error
        if not (hasattr(usage, "format_message") and hasattr(usage, "exit_code")):
            raise
        context = getattr(usage, "ctx", None)
        where = context.command_path if context is not None else "clctl"
        message = usage.format_message().strip()
        if not message:  # no command at all: Typer has shown the help
            return int(Exit.USAGE)
        raise Problem(message, Exit.USAGE, "usage", f"{where} --help") from error


def _fail(problem: Problem, as_json: bool) -> int:
    if as_json:
        document: dict[str, Any] = {"schema": "clctl/error/1", **problem.document()}
        if problem.others:
            document["others"] = [other.document() for other in problem.others]
        print(dump(document), flush=True)
    print(problem.text(), file=sys.stderr, flush=True)
    return int(problem.exit)


def _resources(error: Exception) -> Problem | None:
    """What torch raises when memory is not enough, as the user's problem that it is."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "not enough memory" in text:
        first = text.splitlines()[0]
        return Problem(
            f"not enough memory: {first}",
            Exit.RESOURCES,
            "resources.memory",
            "--set train.batch_size=N with a smaller N, or a smaller encoder",
        )
    return None


def _bug(error: Exception) -> Problem:
    with tempfile.NamedTemporaryFile(
        "w", prefix="clctl-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return Problem(
        f"a bug in clctl: {type(error).__name__}: {error}",
        Exit.BUG,
        "bug",
        f"report it with the traceback in {file.name}",
    )


if __name__ == "__main__":
    main()
