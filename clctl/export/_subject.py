"""What is exported, and what the targets share: their names, provenance, lines to paste."""

import importlib
import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem
from clctl.recipe import plugins, words
from clctl.store import documents, reading
from clctl.store.reference import KEY

if TYPE_CHECKING:
    from torch import Tensor

    from clctl.method import Encoder

RESNETS = ("resnet18", "resnet34", "resnet50")  # named and keyed alike in torchvision and timm
VITS = ("vit_tiny", "vit_small", "vit_base")  # keyed as in timm


@dataclass(frozen=True)
class Subject:
    """An encoder to hand over.

    Attributes:
        name: Of the run or recipe, fit for a file name.
        architecture: Its name in a recipe, which picks a module of `clctl.encoders`.
        facts: The keys of its Config that are not at their default, and what was settled when
            it was built, such as {"stem": "small"}.
        encoder: In eval mode, on the CPU, float32.
        size: Side in pixels of the pictures that it takes.
        mean, std: Of each channel, in units of full white.
        about: Provenance as JSON: what makes a file of ours a CKPT, with the recipe.
    """

    name: str
    architecture: str
    facts: dict[str, Any]
    encoder: "Encoder"
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    about: dict[str, Any]

    def metadata(self, evaluated: str = "") -> dict[str, str]:
        """Provenance and preprocessing as text, for the metadata of a file.

        Args:
            evaluated: What its keys start with, before a dot, in the file; empty for nothing.
        """
        preprocessing = {
            "crop": "largest centred square",
            "size": self.size,
            "interpolation": "bilinear, antialiased",
            "range": [0, 1],
            "mean": self.mean,
            "std": self.std,
        }
        entries = {KEY: {**self.about, "evaluated": evaluated}, "preprocessing": preprocessing}
        return {key: documents.encode(value, None).decode() for key, value in entries.items()}


def targets() -> list[str]:
    """Names of all targets."""
    return list(plugins.known("clctl.export"))


def module(target: str) -> ModuleType:
    """The module of a target: its `refusal`, `write`, `outputs` and `paste`.

    Raises:
        Problem: Exit.USAGE if there is no such target.
    """
    names = targets()
    if target not in names:
        raise Problem(
            f"there is no export target {target!r}",
            Exit.USAGE,
            "export.unknown-target",
            words.did_you_mean(target, names),
        )
    return importlib.import_module(f"clctl.export.{target}")


def possible(subject: Subject) -> list[str]:
    """The targets that can carry this encoder."""
    return [target for target in targets() if module(target).refusal(subject) is None]


def admit(target: str, subject: Subject) -> None:
    """Go on if the target can carry the encoder.

    Raises:
        Problem: Exit.USAGE, with the reason and the targets that can.
    """
    reason = module(target).refusal(subject)
    if reason is not None:
        raise Problem(
            f"cannot export {subject.name} to {target}: {reason}",
            Exit.USAGE,
            "export.no-such-encoder",
            " or ".join(f"--to {other}" for other in possible(subject)),
        )


def verify(target: str, path: Path, subject: Subject, x: "Tensor") -> float:
    """Largest absolute difference between the encoder and what was written; inf if not finite.

    Args:
        path: What the target's `write` gave.
        x: float32 [N, 3, size, size], normalised.
    """
    import torch

    with torch.inference_mode():
        ours, theirs = subject.encoder(x), module(target).outputs(path, subject, x)
    if ours.shape != theirs.shape:
        raise AssertionError(f"{target} gives {list(theirs.shape)}, not {list(ours.shape)}")
    difference = (ours - theirs).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def claim(path: Path, ours: bool) -> None:
    """Go on if nothing is lost by writing to `path`.

    Args:
        ours: Whether what is there, if anything, is an earlier export.

    Raises:
        Problem: Exit.EXISTS.
    """
    if reading.exists(path) and not ours:
        raise Problem(
            f"{path} is there and was not written by clctl export",
            Exit.EXISTS,
            "export.exists",
            "move it away, or give another --out",
        )


def need(extra: str, *modules: str) -> None:
    """Go on if the modules of an extra are installed.

    Raises:
        Problem: Exit.USAGE, with the line that installs them.
    """
    for name in modules:
        found = sys.modules[name] if name in sys.modules else importlib.util.find_spec(name)
        if found is None:
            raise Problem(
                f"export to {extra} needs {name}, which is not installed",
                Exit.USAGE,
                "export.missing-extra",
                f"pip install 'clctl[{extra}]'",
            )


def picture(subject: Subject) -> str:
    """Lines that turn picture.jpg into `x`, a float32 tensor [1, 3, size, size]."""
    return f"""\
image = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
image = F.resize(F.center_crop(image, min(image.size)), {[subject.size] * 2})
x = F.to_dtype(F.to_image(image), torch.float32, scale=True)
x = F.normalize(x, {list(subject.mean)}, {list(subject.std)})[None]"""
