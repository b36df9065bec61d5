"""What is exported, and what the targets share: their names, provenance, lines to paste."""

import importlib
import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem
from clctl.export._scores import Row
from clctl.recipe import plugins, words
from clctl.store import documents
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
        scores: Of these weights, for the card.
        versions: Of what trained them, by name, for the card.
    """

    name: str
    architecture: str
    facts: dict[str, Any]
    encoder: "Encoder"
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    about: dict[str, Any]
    scores: tuple[Row, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a picture becomes the encoder's input, float32 [N, 3, size, size] in RGB, in full."""
        return {
            "orientation": "as EXIF says",
            "transparency": "over white",
            "grey": "three equal channels",
            "crop": "largest centred square",
            "crop_corner": "round((side - square) / 2), halves to even",
            "size": self.size,
            "interpolation": "bilinear, antialiased",
            "rounding": "to whole levels of 255 where the picture shrinks, none where it grows",
            "range": [0, 1],
            "mean": self.mean,
            "std": self.std,
        }

    def metadata(self, evaluated: str = "") -> dict[str, str]:
        """Provenance and preprocessing as text, for the metadata of a file.

        Args:
            evaluated: What its keys start with, before a dot, in the file; empty for nothing.
        """
        about = {**self.about, "evaluated": evaluated}
        entries = {KEY: about, "preprocessing": self.preprocessing}
        return {key: documents.encode(value, None).decode() for key, value in entries.items()}


def targets() -> list[str]:
    """Names of all targets."""
    return list(plugins.known("clctl.export"))


def module(target: str) -> ModuleType:
    """The module of a target: WEIGHTS, LOADED, `refusal`, `config`, `save`, `outputs`, `paste`.

    WEIGHTS is the name of its file in the folder, LOADED of what the other tool is given.

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
        path: The folder of the export.
        x: float32 [N, 3, size, size], normalised.
    """
    import torch

    with torch.inference_mode():
        ours, theirs = subject.encoder(x), module(target).outputs(path, subject, x)
    if ours.shape != theirs.shape:
        raise AssertionError(f"{target} gives {list(theirs.shape)}, not {list(ours.shape)}")
    difference = (ours - theirs).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


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
