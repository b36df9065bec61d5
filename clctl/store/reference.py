"""What a user means by CKPT: a run, checkpoint or export folder, or a file of weights."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem, Talk
from clctl.store import checkpoint, documents, reading, sums, tensors

if TYPE_CHECKING:
    from torch import Tensor

KEY = "clctl"  # the metadata of a file of ours: what it is, as JSON
_PREFIXES = ("module.", "_orig_mod.")  # of wrappers for several devices, of compiled modules
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A file of weights, whole.

    Attributes:
        model: The safetensors file.
        about: What its metadata say of it.
        run: Its run folder, where it lies in one.
        checkpoint: Its checkpoint folder, where it lies in one.
        sha256: Of the file, in hex.
    """

    model: Path
    about: dict[str, Any]
    run: Path | None
    checkpoint: Path | None
    sha256: str


def find(reference: str, say: Callable[[str], None] | None = None) -> Found:
    """The weights that `reference` names; of a run folder its newest whole checkpoint.

    Args:
        say: Told which damaged checkpoints of a run were passed over; stderr by default.

    Raises:
        Problem: Exit.CHECKPOINT if there is nothing, or nothing of clctl's, or it is damaged.
            What was named itself is never replaced by something else.
    """
    path = Path(reference)
    if not os.path.exists(reference):
        raise Problem(
            f"{reference} does not exist", Exit.CHECKPOINT, "checkpoint.not-found", _near(path)
        )
    if not os.path.isdir(path):
        real = Path(os.path.realpath(path))
        if real.name == checkpoint.MODEL and reading.exists(real.parent / checkpoint.MANIFEST):
            checkpoint.verify(real.parent)
            return _found(path, real.parent)
        return _found(path, None)
    inside = reading.names(path)
    if checkpoint.MODEL in inside and sums.NAME in inside:
        return _exported(path)
    if checkpoint.MANIFEST in inside or checkpoint.MODEL in inside:
        checkpoint.verify(path)
        return _found(path / checkpoint.MODEL, path)
    if checkpoint.CHECKPOINTS not in inside:
        raise Problem(
            f"{reference} is neither a run folder nor a checkpoint",
            Exit.CHECKPOINT,
            "checkpoint.none",
            "make one with: clctl pretrain byol",
        )
    folder = checkpoint.newest(path, say or Talk().say)
    if folder is None:
        raise Problem(
            f"{reference} has no whole checkpoint",
            Exit.CHECKPOINT,
            "checkpoint.none",
            f"make one with: clctl pretrain {quote(reference)}",
        )
    return _found(folder / checkpoint.MODEL, folder)


def match(
    tensors: Mapping[str, "Tensor"], expected: Mapping[str, Sequence[int]], what: str
) -> dict[str, "Tensor"]:
    """The tensors under the names that are expected, exactly as many, each of its shape.

    Args:
        expected: Name -> shape.
        what: What is to be filled, for the message.

    Raises:
        Problem: Exit.CHECKPOINT, saying how many fit and what does not.
    """
    named: dict[str, Tensor] = {}
    twice: list[str] = []
    for key, tensor in tensors.items():
        name = key
        while name not in expected and name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        if name in named:
            twice.append(name)
        named[name] = tensor
    missing = [name for name in expected if name not in named]
    unexpected = [name for name in named if name not in expected]
    shapes = {n: (tuple(named[n].shape), tuple(expected[n])) for n in expected if n in named}
    other = [f"{n} {has}, not {wants}" for n, (has, wants) in shapes.items() if has != wants]
    if not (missing or unexpected or other or twice):
        return named
    lists = {"missing": missing, "unknown": unexpected, "of another shape": other, "twice": twice}
    details = "; ".join(f"{label}: {_first(names)}" for label, names in lists.items() if names)
    raise Problem(
        f"{len(shapes) - len(other)} of {len(expected)} tensors of {what} match; {details}",
        Exit.CHECKPOINT,
        "checkpoint.mismatch",
        "it may be from another encoder: see clctl inspect",
    )


def _exported(folder: Path) -> Found:
    """The weights in a folder of clctl export."""
    if not sums.check(folder).get(checkpoint.MODEL, False):
        raise Problem(
            f"{folder / checkpoint.MODEL} is damaged: its sha256 is not the one in {sums.NAME}",
            Exit.CHECKPOINT,
            "checkpoint.damaged",
            "export again",
        )
    return _found(folder / checkpoint.MODEL, None)


def _found(model: Path, folder: Path | None) -> Found:
    metadata = tensors.header(model).metadata
    try:
        about = documents.parse(metadata[KEY].encode())
    except (KeyError, ValueError) as error:
        raise Problem(
            f"{model} was not written by clctl: its metadata have no {KEY!r}",
            Exit.CHECKPOINT,
            "checkpoint.foreign",
            "name a run folder, or a file of clctl export --to safetensors",
        ) from error
    run = None
    if folder is not None:
        home = Path(os.path.abspath(folder)).parent
        run = home.parent if home.name == checkpoint.CHECKPOINTS else None
    return Found(model, about, run, folder, reading.digest(model))


def _near(path: Path) -> str:
    """The name in the same folder that was likely meant, or how to make one."""
    close = difflib.get_close_matches(path.name, reading.names(path.parent), n=1)
    return str(path.parent / close[0]) if close else "make one with: clctl pretrain byol"


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
