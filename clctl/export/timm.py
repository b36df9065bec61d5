"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes.

Source: timm 1.0, `save_config_for_hf` in timm/models/_hub.py, for the keys of config.json.
Differs: timm's own transform, which the config describes, resizes before it crops; the lines to
paste crop first, as evaluation does, and may differ from it by a pixel at the border.
"""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem
from clctl.export import _weights
from clctl.export._subject import RESNETS, VITS, Subject, admit, claim, need, picture
from clctl.store import documents, files, reading
from clctl.store.reference import KEY

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _MODEL = "config.json", "model.safetensors"


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


def write(subject: Subject, folder: Path) -> Path:
    """Write the folder `<name>-timm`, the whole of it or nothing; timm itself is not needed.

    Raises:
        Problem: Exit.USAGE if timm lacks the encoder, Exit.EXISTS if something else is in its
            place; Exit.RESOURCES from the disk.
    """
    admit("timm", subject)
    path = folder / f"{subject.name}-timm"
    claim(path, ours=_ours(path))
    files.make(folder)
    draft, old = _hidden(path), _hidden(path)
    try:
        files.make(draft)
        _weights.save(draft / _MODEL, subject)
        files.write(draft / _CONFIG, documents.encode(_config(subject)) + b"\n")
        if replaces := reading.exists(path):
            files.rename(path, old)
        files.rename(draft, path)
    except BaseException:
        with suppress(Problem):  # the first error is the one to tell
            if reading.exists(old):
                files.rename(old, path)
            files.remove(draft)
        raise
    if replaces:
        files.remove(old)
    return path


def outputs(path: Path, subject: Subject, x: "Tensor") -> "Tensor":
    """Features [N, width] of x [N, 3, size, size] from timm's own model.

    Raises:
        Problem: Exit.USAGE if timm is not installed.
    """
    need("timm", "timm")
    import timm
    import torch

    model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
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


def _config(subject: Subject) -> dict[str, Any]:
    """timm's description of the model, and where it comes from."""
    return {
        **_model(subject),
        "num_classes": 0,
        "num_features": subject.encoder.width,
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
        KEY: subject.about,
    }


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


def _ours(path: Path) -> bool:
    """Whether the folder holds an earlier export and nothing besides."""
    if set(reading.names(path)) != {_CONFIG, _MODEL}:
        return False
    try:
        return KEY in documents.read(path / _CONFIG, "checkpoint.damaged")
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        return False


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
