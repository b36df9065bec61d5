"""A trained encoder from its file: rebuilt from the recipe inside it, loaded strictly."""

from dataclasses import dataclass

from torch import Tensor, nn

from clctl.console import Exit, Problem, Talk
from clctl.method import Encoder, Method
from clctl.recipe.saved import from_resolved
from clctl.recipe.sections import Recipe
from clctl.store import reference, tensors


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
