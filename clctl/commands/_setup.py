"""From a recipe to the parts that run: device, precision, method, views."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clctl
from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.images import Images
from clctl.method import Encoder, Method, Scale
from clctl.recipe.policy import Views
from clctl.recipe.sections import Recipe
from clctl.rng import seeded
from clctl.views.apply import prepare


@dataclass(frozen=True)
class Machine:
    """Where a command runs.

    Attributes:
        amp: Type of autocast in training, or None for float32.
        note: What idles, or why this device was taken.
    """

    device: torch.device
    amp: torch.dtype | None
    note: str

    @property
    def words(self) -> str:
        """Device, precision and ranks in words."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' * (count > 1)}" if self.device.type == "cpu" else ""
        ranks = f"{world()[1]} ranks" if world()[1] > 1 else ""
        words = (str(self.device), name or threads, self.precision, ranks)
        return ", ".join(word for word in words if word)

    @property
    def precision(self) -> str:
        """ "bf16" or "fp32"."""
        return "bf16" if self.amp else "fp32"


def machine(choice: str, precision: str = "auto") -> Machine:
    """The device of `--device` and the precision of the recipe.

    Raises:
        Problem: If the device is not there, or the choice is not one of the known forms.
    """
    device, note = _device(choice)
    if precision == "auto":
        bf16 = device.type == "cuda" or (device.type == "cpu" and _bf16_pays())
    else:
        bf16 = precision == "bf16"
    return Machine(device, torch.bfloat16 if bf16 else None, note)


def _device(choice: str) -> tuple[torch.device, str]:
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "auto":
        if cards:
            idle = f"{cards - 1} more idle: --device cuda:1 takes another" if cards > 1 else ""
            return torch.device("cuda:0"), idle
        apple = torch.backends.mps.is_available()
        return torch.device("cpu"), "--device mps would use the GPU" if apple else ""
    if choice == "cpu":
        return torch.device("cpu"), f"{cards} GPU idle" if cards else ""
    if choice == "mps":
        if not torch.backends.mps.is_available():
            raise _absent("mps", "this machine has no Apple GPU that torch can use")
        return torch.device("mps"), ""
    wanted = [f"cuda:{i}" for i in range(cards)] if choice == "all" else choice.split(",")
    if choice == "all" and not cards:
        return torch.device("cpu"), ""
    if len(wanted) == 2 and wanted[1].isdigit():
        wanted[1] = f"cuda:{wanted[1]}"
    if len(wanted) > 1 and all(name.startswith("cuda:") for name in wanted):
        raise Problem(
            f"--device {choice} names {len(wanted)} devices; this command uses one",
            Exit.USAGE,
            "device.several",
            f"--device {wanted[0]}",
        )
    name = "cuda:0" if wanted[0] == "cuda" else wanted[0]
    index = name.removeprefix("cuda:")
    if not name.startswith("cuda:") or not index.isdigit():
        forms = "auto, cpu, cuda, cuda:N, cuda:N,N, all, mps"
        raise Problem(f"--device {choice} is none of {forms}", Exit.USAGE, "device.unknown")
    if int(index) >= cards:
        raise _absent(name, f"torch {torch.__version__} sees {cards} CUDA devices here")
    return torch.device(name), ""


def _absent(name: str, why: str) -> Problem:
    return Problem(
        f"device {name} is not there: {why}",
        Exit.RESOURCES,
        "device.absent",
        "--device auto takes what there is",
    )


def _bf16_pays() -> bool:
    """Whether the processor multiplies bf16 in hardware; without that bf16 halves the speed."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return False
    flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
    return "avx512_bf16" in flags.split() or "amx_bf16" in flags.split()


def encoder(recipe: Recipe) -> Encoder:
    """The encoder with the weights of step 0."""
    with seeded(recipe.seed, "init"):
        return recipe.encoder.build(recipe.views.size)


def method(
    recipe: Recipe,
    images: int | None = None,
    begin: Callable[[Encoder], None] = lambda encoder: None,
) -> Method:
    """The method with the weights that its seed gives: those of step 0.

    Args:
        images: Size of the training set, where it is known.
        begin: Puts other weights into the fresh encoder, before a teacher is copied from it.

    Raises:
        Problem: If a queue of the recipe is longer than the training set.
    """
    with seeded(recipe.seed, "init"):
        encoder = recipe.encoder.build(recipe.views.size)
        begin(encoder)
        return recipe.method.build(encoder, Scale(recipe.train.batch_size, images))


def preparation(views: Views) -> Callable[[Images], Tensor]:
    """Images -> what the encoder gets in evaluation."""
    return partial(prepare, size=views.size, mean=views.mean, std=views.std)


def parameters(module: torch.nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())


def environment(where: Machine) -> dict[str, Any]:
    """Versions and hardware, for reports. Nothing personal: no host or user name."""
    import torchvision

    return {
        "clctl": clctl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "device": where.words,
        "precision": where.precision,
    }
