"""`clctl` and `python -m clctl`: one way in, and one way out for everything that goes wrong."""

import gc
import os
import sys
import tempfile
import traceback
from typing import Any

from clctl.console import Exit, Problem, dump, out_of_memory
from clctl.data.home import home


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
        code = _fail(_resources(error, (*arguments, "")[0]) or _bug(error), as_json)
    raise SystemExit(int(code))


def _run(arguments: list[str]) -> int:
    # Torch makes so many objects as it loads that looking for cycles among them takes a tenth of
    # the start. Steps of training leave no cycles behind.
    gc.set_threshold(20_000)
    import typer

    from clctl.cli import app

    _contain()
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


def _contain() -> None:
    """Let libraries keep what they write of their own accord in the cache, where it can be."""
    place = home().absolute()
    there = next(f for f in (place, *place.parents) if os.path.exists(f))
    if os.access(there, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(place / "triton"))


def _fail(problem: Problem, as_json: bool) -> int:
    if as_json:
        document: dict[str, Any] = {"schema": "clctl/error/1", **problem.document()}
        if problem.others:
            document["others"] = [other.document() for other in problem.others]
        encoding = sys.stdout.encoding or "utf-8"
        print(dump(document).encode(encoding, "replace").decode(encoding), flush=True)
    print(problem.text(), file=sys.stderr, flush=True)
    return int(problem.exit)


def _resources(error: Exception, command: str) -> Problem | None:
    """What Python or torch raise when memory is not enough, as the user's problem that it is."""
    if not out_of_memory(error):
        return None
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    advice = "give it fewer or smaller pictures (--data), or use a machine with more memory"
    if command == "pretrain":
        advice = "--set train.batch_size=N or views.size=N with a smaller N, or a smaller encoder"
    elif command in ("finetune", "linear-probe"):
        advice = f"--device cpu where a GPU is too small, a smaller --label-fraction; else {advice}"
    elif command in ("knn-eval", "retrieval", "diagnose", "embed", "neighbors", "compare"):
        advice = f"--device cpu where a GPU is too small, fewer --layers; else {advice}"
    return Problem(f"not enough memory: {said}", Exit.RESOURCES, "memory.out", advice)


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
