"""clctl's own file: the encoder with preprocessing and provenance, itself a CKPT."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.export import _weights
from clctl.export._subject import Subject, picture
from clctl.recipe import plugins

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = LOADED = "model.safetensors"
_PREFIX = "encoder"


def refusal(subject: Subject) -> str | None:
    """Nothing is refused."""
    return None


def config(subject: Subject) -> dict[str, Any]:
    """What config.json says besides: where the encoder's tensors are in the file."""
    return {"key_prefix": f"{_PREFIX}."}


def save(subject: Subject, path: Path) -> None:
    """Write the file of weights."""
    _weights.save(path, subject, _PREFIX)


def outputs(folder: Path, subject: Subject, x: "Tensor") -> "Tensor":
    """Features [N, width] of x [N, 3, size, size] from a new encoder with the file's weights."""
    import torch
    from safetensors.torch import load_file

    config = plugins.config("clctl.encoders", subject.architecture)
    encoder = config(**_settings(subject)).build(subject.size).eval()
    state = {
        key.removeprefix(f"{_PREFIX}."): value for key, value in load_file(folder / WEIGHTS).items()
    }
    encoder.load_state_dict(state)
    with torch.inference_mode():
        return encoder(x)


def paste(subject: Subject, path: Path) -> str:
    """Lines of Python that load the file and give features of a picture; with clctl."""
    settings = ", ".join(f"{key}={value!r}" for key, value in _settings(subject).items())
    return f"""\
import torch
from clctl.encoders.{plugins.module(subject.architecture)} import Config
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as F

model = Config({settings}).build({subject.size}).eval()
weights = load_file({str(path)!r})
model.load_state_dict({{key.removeprefix("{_PREFIX}."): w for key, w in weights.items()}})
{picture(subject)}
features = model(x).detach()
"""


def _settings(subject: Subject) -> dict[str, Any]:
    """The facts that are keys of the encoder's Config, and its name where there are several."""
    fields = plugins.config("clctl.encoders", subject.architecture).model_fields
    name = {"name": subject.architecture} if fields["name"].is_required() else {}
    return name | {k: v for k, v in subject.facts.items() if k in fields and k != "name"}
