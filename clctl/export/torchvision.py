"""A state dict that torchvision's ResNets load, with exactly their classifier missing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.export import _weights
from clctl.export._subject import RESNETS, Subject, picture

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = LOADED = "model.safetensors"


def refusal(subject: Subject) -> str | None:
    """Why torchvision has no place for the encoder, None if it has."""
    if subject.architecture not in RESNETS:
        return f"torchvision has no {subject.architecture}"
    if subject.facts["norm"] != "batch":
        return f"torchvision's {subject.architecture} has no {subject.facts['norm']} norm"
    return None


def config(subject: Subject) -> dict[str, Any]:
    """What config.json says besides: the model to build, and what differs from it."""
    stem = (
        {"conv1": "3x3, stride 1, padding 1, no bias", "maxpool": None} if _small(subject) else {}
    )
    return {"model": subject.architecture, "replaced": {**stem, "fc": None}}


def save(subject: Subject, path: Path) -> None:
    """Write the file of weights."""
    _weights.save(path, subject)


def outputs(folder: Path, subject: Subject, x: "Tensor") -> "Tensor":
    """Features [N, width] of x [N, 3, size, size] from torchvision's own model."""
    import torch
    import torchvision
    from safetensors.torch import load_file

    model = getattr(torchvision.models, subject.architecture)().eval()
    if _small(subject):
        model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model.fc = torch.nn.Identity()
    model.load_state_dict(load_file(folder / WEIGHTS))
    with torch.inference_mode():
        return model(x)


def paste(subject: Subject, path: Path) -> str:
    """Lines of Python that load the file and give features of a picture; without clctl."""
    model = f"model = torchvision.models.{subject.architecture}().eval()"
    if _small(subject):
        model += "\nmodel.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)"
        model += "\nmodel.maxpool = model.fc = torch.nn.Identity()"
    else:
        model += "\nmodel.fc = torch.nn.Identity()"
    return f"""\
import torch, torchvision
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as F

{model}
model.load_state_dict(load_file({str(path)!r}))
{picture(subject)}
features = model(x).detach()
"""


def _small(subject: Subject) -> bool:
    return subject.facts["stem"] == "small"
