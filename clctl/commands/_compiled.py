"""What `train.compile` turns a method into, and whether this machine can."""

import logging
import os
import warnings
from collections.abc import Callable

import torch
from torch import nn

from clctl.console import Exit, Problem
from clctl.data.home import home
from clctl.method import Batch, Clock, Step


def check(device: torch.device) -> None:
    """Compile one addition, since without a compiler the first step would fail much later.

    Raises:
        Problem: torch.compile does not work here.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))
    # It says that there is no CUDA to build extensions with, which nobody wants here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of torch's, or of whatever compiler it found
        last = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise Problem(
            f"train.compile is set, but torch.compile does not work here: {last}",
            Exit.RESOURCES,
            "train.no-compiler",
            "install a C++ compiler (g++ or clang), or --set train.compile=false",
        ) from error


def on(device: torch.device) -> Callable[[nn.Module], Callable[[Batch, Clock], Step]]:
    """Method -> the same forward and backward, compiled; on CUDA captured as graphs as well.

    It is compiled at its first call, and again only where the method itself takes another way, as
    SwAV does when its queue comes into use.
    """

    def compiled(method: nn.Module) -> Callable[[Batch, Clock], Step]:
        # Else the first step would be compiled for its own number, and the second one for all.
        torch.compiler.config.dynamic_sources = "L['clock'].step"
        # CPC's GRU stays as it is, and what lies around it is compiled; this is said of that.
        warnings.filterwarnings(
            "ignore", "The .grad attribute of a Tensor that is not", UserWarning
        )
        if device.type != "cuda":
            return torch.compile(method)
        forward = torch.compile(method, mode="reduce-overhead")

        def captured(batch: Batch, clock: Clock) -> Step:
            torch.compiler.cudagraph_mark_step_begin()  # nothing of the last step is read any more
            return forward(batch, clock)

        return captured

    return compiled
