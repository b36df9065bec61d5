"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes.

Source: timm 1.0, `save_config_for_hf` in timm/models/_hub.py, for the keys of config.json.
Differs: timm's own transform, which the config describes, resizes before it crops; the lines to
paste crop first, as evaluation does, and may differ from it by a pixel at the border.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.export import _weights
from clctl.export._subject import RESNETS, VITS, Subject, need, picture

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, LOADED = "model.safetensors", ""  # timm takes the folder


def refusal(subject: Subject) -> str | None:
    """Why timm has no place for the encoder, None if it has."""
    name, facts = subject.architecture, subject.facts
    if name in VITS or name.startswith("timm/"):
        return None
    if name not in RESNETS:
        return f"timm has no {name}"
    if facts["stem"] != "imagenet":
        return f"timm's {name} has no stem of stride 1 without max-pool"
    if facts["norm"] != "batch":
        return f"timm's {name} has no {facts['norm']} norm"
    return None


def config(subject: Subject) -> dict[str, Any]:
    """What config.json says besides: timm's description of the model."""
    return {
        **_model(subject),
        "num_classes": 0,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, subject.size, subject.size],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": subject.mean,
            "std": subject.std,
            **_layers(subject),
        },
    }


def save(subject: Subject, path: Path) -> None:
    """Write the file of weights; timm itself is not needed."""
    _weights.save(path, subject)


def outputs(folder: Path, subject: Subject, x: "Tensor") -> "Tensor":
    """Features [N, width] of x [N, 3, size, size] from timm's own model.

    Raises:
        Problem: Exit.USAGE if timm is not installed.
    """
    need("timm", "timm")
    import timm
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        return model(x)


def paste(subject: Subject, path: Path) -> str:
    """Lines of Python that load the folder and give features of a picture; without clctl."""
    return f"""\
import timm, torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

model = timm.create_model({f"local-dir:{path}"!r}, pretrained=True, num_classes=0).eval()
{picture(subject)}
features = model(x).detach()
"""


def _model(subject: Subject) -> dict[str, Any]:
    """What timm is to build: a name that it has, and how this model differs from it."""
    name, facts, side = subject.architecture, subject.facts, subject.size
    if name in VITS:
        pool = {"cls": "token", "mean": "avg"}[facts["pool"]]
        # Every patch and image size is the one registered name with other arguments.
        arguments = {"img_size": side, "patch_size": facts["patch"], "fc_norm": False}
        built = {"architecture": f"{name}_patch16_224", "global_pool": pool}
        return {**built, "model_args": {**arguments, "global_pool": pool}}
    if name.startswith("timm/"):
        arguments = {"img_size": side} if "img_size" in facts else {}
        return {"architecture": name.removeprefix("timm/"), "model_args": arguments}
    return {"architecture": name, "global_pool": "avg"}


def _layers(subject: Subject) -> dict[str, Any]:
    """The ends of the model, which timm replaces, and whether its size is fixed."""
    name = subject.architecture
    if name.startswith("timm/"):
        own: dict[str, Any] = getattr(subject.encoder, "pretrained_cfg", {})
        first, last = own.get("first_conv"), own.get("classifier")
    else:
        first, last = ("patch_embed.proj", "head") if name in VITS else ("conv1", "fc")
    fixed = name in VITS or "img_size" in subject.facts
    return {"fixed_input_size": fixed, "first_conv": first, "classifier": last}
