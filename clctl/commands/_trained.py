"""A trained encoder from its file: rebuilt from the recipe inside it, loaded strictly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clctl.console import Exit, Problem, Talk
from clctl.method import Encoder, Method
from clctl.recipe.saved import from_resolved
from clctl.recipe.sections import Recipe
from clctl.store import reading, reference, tensors
from clctl.store.run import INITIAL, Run

Start = Callable[[], Encoder]


@dataclass(frozen=True)
class Trained:
    """A checkpoint, opened.

    Attributes:
        encoder: What is scored and exported, on the CPU, in eval mode.
    """

    found: reference.Found
    recipe: Recipe
    encoder: Encoder


def open_checkpoint(ckpt: str, talk: Talk) -> Trained:
    """The encoder of a run folder, checkpoint folder or `.safetensors` file.

    Raises:
        Problem: Exit.CHECKPOINT if it is damaged, not from clctl, or does not fit its own recipe.
    """
    found = reference.find(ckpt, talk.say)
    try:
        recipe = from_resolved(found.about["recipe"], str(found.model))
    except (KeyError, TypeError) as error:
        raise Problem(
            f"{found.model} does not say which recipe made it",
            Exit.CHECKPOINT,
            "checkpoint.no-recipe",
            "name a run folder, or a file of clctl export --to safetensors",
        ) from error
    encoder = recipe.encoder.build(recipe.views.size)
    fill(encoder, found)
    return Trained(found, recipe, encoder.eval())


@dataclass(frozen=True)
class Copy:
    """The copy that a run keeps of the weights that it started from.

    Attributes:
        source: sha256 of the file that they came from, in hex.
    """

    path: Path
    source: str

    def fill(self, encoder: Encoder) -> None:
        """Load them into `encoder`."""
        restore(encoder, tensors.read(self.path)[0], f"the encoder of {self.path}")


def copy(run: Path) -> Copy | None:
    """The first weights of a run, None if it began with random ones or has lost them.

    Raises:
        Problem: Exit.CHECKPOINT if they are damaged.
    """
    state, path = Run(run).read_json("run.json") or {}, run / INITIAL
    source, digest = state.get("identity", {}).get("init"), state.get("initial")
    if source is None or digest is None or not reading.exists(path):
        return None
    if reading.digest(path) != digest:
        raise Problem(
            f"{path} is damaged: its sha256 is not that of run.json",
            Exit.CHECKPOINT,
            "checkpoint.damaged",
            f"rm {path}; a run that has begun to train only loses that baseline",
        )
    return Copy(path, source)


def initial(recipe: Recipe, about: dict[str, Any], run: Path | None, talk: Talk) -> Start | None:
    """The encoder that a run started from, where that was not random; said if it is gone.

    Args:
        about: Of the checkpoint.
        run: Its folder, which keeps a copy of the first weights.
    """
    digest = about.get("init_from")
    if digest is None:
        return None
    kept = None if run is None else copy(run)
    if kept is None or kept.source != digest:
        where = "are only in its run folder" if run is None else f"are not in {run / INITIAL}"
        talk.say(f"  note      the weights that this run started from {where}: no such baseline")
        return None

    def start() -> Encoder:
        encoder = recipe.encoder.build(recipe.views.size)
        kept.fill(encoder)
        return encoder.eval()

    return start


def fill(encoder: Encoder, found: reference.Found | None) -> None:
    """Load the evaluated encoder of a file into `encoder`; nothing if there is no file."""
    if found is None:
        return
    saved, _ = tensors.read(found.model)
    evaluated = found.about.get("evaluated", "encoder")
    prefix = f"{evaluated}." if evaluated else ""  # an export for others has bare keys
    own = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    restore(encoder, own, f"the encoder of {found.model}")


def restore(module: Encoder | Method | nn.Module, saved: dict[str, Tensor], what: str) -> None:
    """Load exactly these tensors.

    Raises:
        Problem: Exit.CHECKPOINT, saying how many tensors match, if any name or shape differs.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    module.load_state_dict(reference.match(saved, shapes, what))
