"""What a device can do at most, and what the arithmetic of a model asks of it."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from clctl.commands._bench_stages import synchronise
from clctl.console import out_of_memory
from clctl.method import Step

SECONDS = 0.6  # of each measurement
SIDE = {"cpu": 1024, "mps": 4096, "cuda": 8192}  # of the matrices
COPIED = {"cpu": 2**28, "mps": 2**28, "cuda": 2**30}  # bytes, far more than caches hold


def peaks(device: torch.device, amp: torch.dtype | None) -> dict[str, Any]:
    """The best of this device in the precision that trains, measured now.

    Returns:
        "matmul_flops": additions and multiplications per second of one large product of square
        matrices. "copy_bytes_per_second": of one large copy, read and written bytes together.
        Null where there is no memory for it.
    """
    dtype = amp or torch.float32
    side = SIDE[device.type]
    product = _fitting(side, lambda n: _matmul(n, dtype, device))
    copied = _fitting(COPIED[device.type], lambda n: _copy(n, device))
    return {
        "precision": "bf16" if amp else "fp32",
        "matmul_flops": product and 2 * product[0] ** 3 / product[1],
        "copy_bytes_per_second": copied and 2 * copied[0] / copied[1],
    }


def _fitting(size: int, measure: Callable[[int], float]) -> tuple[int, float] | None:
    """The largest of `size`, its half and so on that memory allows, and its seconds."""
    while size >= 256:
        try:
            return size, measure(size)
        except Exception as error:
            if not out_of_memory(error):
                raise
        size //= 2
    return None


def _matmul(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.full((side, side), 0.5, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return _median(lambda: torch.mm(a, b, out=out), device)


def _copy(size: int, device: torch.device) -> float:
    a, b = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return _median(lambda: b.copy_(a), device)


def _median(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call; at least three are timed, the first one not."""
    work()
    synchronise(device)
    taken, until = list[float](), time.perf_counter() + SECONDS
    while len(taken) < 3 or time.perf_counter() < until:
        begun = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def arithmetic(forward: Callable[[], Step], images: int) -> dict[str, float]:
    """What forward and backward over one batch of `images` take, all its views, per image.

    Returns:
        "flops_per_image" in two parts: those of products and convolutions, a multiply-add being
        two. "bytes_per_image": what the operations read and write, as if nothing stayed in a
        cache. "kept_bytes_per_image": what forward keeps for backward.
    """
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with _Traffic() as traffic, FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(pack, lambda x: x):
            loss = forward().loss
        ahead = counter.get_total_flops()
        loss.backward()
        whole = counter.get_total_flops()
    return {
        "flops_per_image": whole / images,
        "forward_flops_per_image": ahead / images,
        "backward_flops_per_image": (whole - ahead) / images,
        "bytes_per_image": traffic.bytes / images,
        "kept_bytes_per_image": sum(kept.values()) / images,
    }


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        idle = func.is_view or "empty" in func.__name__ or func.namespace != "aten"
        if not idle:
            for leaf in tree_leaves((args, kwargs, out)):
                if isinstance(leaf, Tensor):
                    self.bytes += leaf.nbytes
        return out
