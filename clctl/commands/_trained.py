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
from clctl.store import reference, tensors
from clctl.store.run import Run

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


def initial(recipe: Recipe, about: dict[str, Any], run: Path | None, talk: Talk) -> Start | None:
    """The encoder that a run started from, where that was another run's; said if it is gone.

    Args:
        about: Of the checkpoint.
        run: Its folder, which knows where the first weights lay.
    """
    digest = about.get("init_from")
    if digest is None:
        return None
    state = None if run is None else Run(run).read_json("run.json")
    place = (state or {}).get("init_from")
    found = None
    if place is not None and Path(place).exists():
        found = reference.find(place, talk.say)
    if found is None or found.sha256 != digest:
        where = "are not known" if place is None else f"are not at {place} any more"
        talk.say(f"  note      the weights that this run started from {where}: no such baseline")
        return None

    def start() -> Encoder:
        encoder = recipe.encoder.build(recipe.views.size)
        fill(encoder, found)
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
