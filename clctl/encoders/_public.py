"""Public ImageNet weights: torchvision's of the ResNets, timm's of everything else.

Source: torchvision's IMAGENET1K_V1, the recipe of He et al. 2016, which V2 of ResNet-50 is not;
timm's default tag of a name, kept at huggingface.co.
"""

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.store import foreign, reading, tensors

RESNETS = ("resnet18", "resnet34", "resnet50")
_FILE = "model.safetensors"


def public(name: str, download: bool) -> tuple[Path, dict[str, Tensor]]:
    """The file of an encoder's public weights, and all its tensors.

    Args:
        name: Of the encoder in a recipe.
        download: Whether to fetch what is not in the cache of torch or of huggingface_hub.

    Raises:
        Problem: Exit.DATA if it is not there; Exit.RECIPE if there are no such weights;
            Exit.CHECKPOINT if it is damaged.
    """
    if name in RESNETS:
        path = _of_torchvision(name, download)
        return path, foreign.read(path)
    path = _of_timm(name, download)
    return path, tensors.read(path)[0]


def _of_torchvision(name: str, download: bool) -> Path:
    """In torch hub's cache, its hash as its name has it."""
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    digest = path.stem.rpartition("-")[2]
    if not path.exists():
        if not download:
            raise _absent(f"{path} is not there", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise _absent(f"{url} cannot be fetched: {error}", url) from error
    if not reading.digest(path).startswith(digest):
        raise Problem(
            f"{path} is damaged: its sha256 does not begin with {digest}",
            Exit.CHECKPOINT,
            "weights.damaged",
            f"rm {path}, then the same command with --download",
        )
    return path


def _of_timm(name: str, download: bool) -> Path:
    """In the cache of huggingface_hub, which names files by their hash."""
    if importlib.util.find_spec("timm") is None:
        raise Problem(
            f"the public weights of {name} are timm's, which is not installed",
            Exit.USAGE,
            "encoder.missing-extra",
            "pip install 'clctl[timm]'",
        )
    from huggingface_hub import hf_hub_download
    from timm.models import get_pretrained_cfg

    model = name.removeprefix("timm/") if "/" in name else f"{name}_patch16_224"
    described = get_pretrained_cfg(model)
    repository = described.hf_hub_id if described is not None else None
    if not repository:
        raise Problem(
            f"timm has no public weights of {model}",
            Exit.RECIPE,
            "weights.none",
            "leave out encoder.weights: `timm.list_pretrained()` gives the models that have some",
        )
    try:
        return Path(hf_hub_download(repository, _FILE, local_files_only=not download))
    except Exception as error:  # each layer of the network has errors of its own
        place = f"https://huggingface.co/{repository}"
        first = str(error).partition("\n")[0]
        reason = f"{place} cannot be fetched: {first}" if download else f"{place} is not in cache"
        raise _absent(reason, place) from error


def _absent(reason: str, url: str) -> Problem:
    again = "with a network, " if "cannot be fetched" in reason else ""
    return Problem(
        f"the public weights are missing: {reason}",
        Exit.DATA,
        "weights.absent",
        f"{again}the same command with --download fetches them; or name a file from {url}: "
        "--set encoder.weights=FILE.safetensors (clctl convert makes one of a .pth)",
    )
