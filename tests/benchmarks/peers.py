"""What the benchmarks beside other programs share: pictures, lightly's views, turns, the report."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from lightly.transforms import BYOLTransform, SimCLRTransform  # pyright: ignore[reportMissingImports]
from lightly.transforms.byol_transform import (  # pyright: ignore[reportMissingImports]
    BYOLView1Transform,
    BYOLView2Transform,
)
from PIL import Image
from torch.utils.data import Dataset

from clctl.recipe.policy import ViewGroup, Views
from clctl.rng import generator

CORES = torch.get_num_threads()  # of the arithmetic, and as many loader workers
PACKAGES = (
    *("clctl", "torch", "torchvision", "pillow", "numpy"),
    *("lightly", "pytorch-lightning", "kornia"),
)


class Pictures(Dataset):
    """Pictures as torchvision's data sets give them: a PIL image under a transform, and a label."""

    def __init__(
        self, pictures: np.ndarray | Sequence[Path], views: Callable[[Image.Image], Any]
    ) -> None:
        """`pictures`: uint8 [N, H, W, 3], or files."""
        self.pictures, self.views = pictures, views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        one = self.pictures[index]
        if isinstance(one, Path):
            with Image.open(one) as file:
                return self.views(file.convert("RGB")), 0
        return self.views(Image.fromarray(one)), 0


def smooth(count: int, side: int) -> np.ndarray:
    """Smooth random pictures: uint8 [count, side, side, 3]."""
    coarse = torch.rand(count, 3, 9, 9, generator=generator(0, "pictures"))
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return fine.clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def pictures(path: Path | None) -> np.ndarray:
    """The `images` of an .npz, or as many smooth ones as CIFAR-10 has: uint8 [N, 32, 32, 3]."""
    if path is None:
        return smooth(50_000, 32)
    with np.load(path) as arrays:
        return arrays["images"]


def lightly_views(policy: Views) -> Callable[[Image.Image], list[torch.Tensor]]:
    """lightly's transform with the numbers of a policy: SimCLR's of one group, BYOL's of two."""
    if len(policy.groups) == 1:
        return SimCLRTransform(**_numbers(policy, policy.groups[0]))
    first, second = policy.groups
    return BYOLTransform(
        BYOLView1Transform(**_numbers(policy, first), solarization_prob=_solarized(first)),
        BYOLView2Transform(**_numbers(policy, second), solarization_prob=_solarized(second)),
    )


def _numbers(policy: Views, group: ViewGroup) -> dict[str, Any]:
    crop, jitter, blur = group.crop, group.jitter, group.blur
    assert crop is not None
    assert jitter is not None
    assert (crop.scale[1], crop.ratio) == (1.0, (3 / 4, 4 / 3)), "lightly cannot be told"
    return {
        "input_size": policy.size,
        "min_scale": crop.scale[0],
        "hf_prob": group.hflip,
        "cj_prob": jitter.p,
        "cj_strength": 1.0,
        "cj_bright": jitter.brightness,
        "cj_contrast": jitter.contrast,
        "cj_sat": jitter.saturation,
        "cj_hue": jitter.hue,
        "random_gray_scale": group.grayscale,
        "gaussian_blur": blur.p if blur else 0.0,
        "sigmas": blur.sigma if blur else (0.1, 2.0),
        "normalize": {"mean": list(policy.mean), "std": list(policy.std)},
    }


def _solarized(group: ViewGroup) -> float:
    """Share of the views; the threshold of both sides is half of white."""
    return group.solarize.p if group.solarize else 0.0


def turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each gives in each round; they take turns, and each round begins with another."""
    names, found = list(contenders), {name: list[float]() for name in contenders}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contenders[name]())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians, and those of single rounds from lowest to highest."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{median(ours) / median(theirs):.2f} ({min(each):.2f}-{max(each):.2f})"


def line(cells: Iterable[object]) -> str:
    """One line of a markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def heading(columns: Sequence[str]) -> str:
    """The first two lines of a markdown table."""
    return f"{line(columns)}\n{line('---' for _ in columns)}"


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of both scripts."""
    words = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=doc, formatter_class=words)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    changed = "a value of the recipes, repeatable, such as views.color=matrix"
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=changed)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--json", type=Path, metavar="FILE", help="all times, as a document")
    return options


def machine(device: torch.device) -> dict[str, Any]:
    """Where and with what is measured; the load tells whether the machine was idle before."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": names[0] if names else platform.processor(),
        "cores": CORES,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def about(facts: dict[str, Any]) -> str:
    """`machine` in a sentence."""
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    place = f"{facts['processor']}, {facts['cores']} cores" + (
        f", {facts['gpu']}" * bool(facts["gpu"])
    )
    return f"{place}; load before {facts['load']:.1f}; {versions}; {facts['date']}"


def keep(path: Path | None, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write all that was measured, if wanted."""
    if path is not None:
        path.write_text(json.dumps({**facts, "rows": rows}, indent=1), "utf-8")
