"""The weights that a run starts from, where they are not random, and the run's own copy of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from clctl.commands import _trained
from clctl.console import Exit, Problem, Talk
from clctl.encoders import _public, _weights
from clctl.method import Encoder
from clctl.recipe.sections import Recipe
from clctl.store import checkpoint, documents, reading, reference, tensors
from clctl.store.run import INITIAL, Run


@dataclass(frozen=True)
class First:
    """First weights.

    Attributes:
        sha256: Of the file that they come from, in hex.
        fill: Puts them into a fresh encoder.
        gone: Whether a run that has begun to train has lost them, and goes on without.
    """

    sha256: str | None = None
    fill: Callable[[Encoder], None] = lambda encoder: None
    gone: bool = False


def first(ckpt: str | None, recipe: Recipe, home: Path | None, download: bool, talk: Talk) -> First:
    """The weights of --init-from or of `encoder.weights`; for a run to continue, its own copy.

    Args:
        home: The folder of the run to continue, where that was named instead of a recipe.

    Raises:
        Problem: Exit.USAGE if both are given, Exit.DATA or Exit.CHECKPOINT if there is no such
            file or it is damaged; `fill` does if they are of another encoder.
    """
    weights = recipe.encoder.weights
    if ckpt is not None:
        if weights is not None:
            raise Problem(
                f"--init-from and encoder.weights, {weights}, cannot both be what a run starts from",
                Exit.USAGE,
                "usage.two-starts",
                "leave out --init-from, or add --set encoder.weights=null",
            )
        found = reference.find(ckpt, talk.say)
        talk.say(f"  encoder   starts from {found.model}")
        return First(found.sha256, partial(_trained.fill, found=found))
    if home is not None and (kept := _trained.copy(home)) is not None:
        return First(kept.source, kept.fill)
    if home is not None and (source := _lost(home)) is not None:
        return First(source, gone=True)
    if weights is None:
        return First()
    path, values, prefix = _file(recipe, download)
    what = f"{path} for {recipe.encoder.name}"

    def fill(encoder: Encoder) -> None:
        words = _weights.fill(encoder, values, what, prefix)
        talk.say(f"  encoder   starts from {path}: {words}")

    return First(reading.digest(path), fill)


def keep(run: Run, begun: First, encoder: Encoder, talk: Talk) -> str | None:
    """Put a copy of the first weights into the run; gives its sha256, None where there is none.

    Args:
        encoder: With the weights of step 0.
    """
    if begun.sha256 is None or begun.gone:
        return None
    known, path = (run.read_json("run.json") or {}).get("initial"), run.folder / INITIAL
    if known is not None and reading.exists(path):
        if reading.digest(path) == known:
            return known
        talk.say(f"warning: {path} is damaged; it is written again")
    return tensors.write(path, encoder.state_dict(), {})


def _lost(home: Path) -> str | None:
    """sha256 of the file that a run began with, where it needs no copy to go on."""
    source = (Run(home).read_json("run.json") or {}).get("identity", {}).get("init")
    return source if checkpoint.steps(home) else None


def _file(recipe: Recipe, download: bool) -> tuple[Path, Mapping[str, Tensor], str | None]:
    """The file, its tensors, and the prefix of its encoder where it is clctl's and says so."""
    name, weights = recipe.encoder.name, recipe.encoder.weights
    if weights == "imagenet":
        return *_public.public(name, download), None
    path = Path(weights)
    if not reading.exists(path):
        raise Problem(
            f"encoder.weights: {path} does not exist",
            Exit.CHECKPOINT,
            "weights.not-found",
            "name a .safetensors file; clctl convert makes one of a .pth",
        )
    values, metadata = tensors.read(path)
    try:
        evaluated = documents.parse(metadata[reference.KEY].encode())["evaluated"]
    except (KeyError, ValueError):
        return path, values, None
    return path, values, f"{evaluated}." if evaluated else ""
