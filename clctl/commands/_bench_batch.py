"""How the rate changes with the batch: a few powers of two around that of the recipe."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from clctl.commands import _checks
from clctl.commands._bench_stages import Loop
from clctl.commands._setup import Machine
from clctl.console import Problem, Talk, out_of_memory

BUDGET = 20.0  # seconds for all batches together
WARM, TIMED = 1, 3  # steps of each
ENOUGH = 0.95  # of the best rate


def around(batch: int, images: int) -> list[int]:
    """A quarter of the batch up to four times it, as far as the set has images; not itself."""
    found = [batch // 4, batch // 2, 2 * batch, 4 * batch]
    return [n for n in found if 2 <= n <= images]


def sweep(
    batch: int,
    rate: float,
    images: int,
    kept: float,
    start: Callable[[int, int], Loop],
    where: Machine,
    talk: Talk,
) -> dict[str, Any]:
    """Images per second by size of the batch, and the smallest that has nearly the best rate.

    Args:
        batch, rate: Of the recipe, as measured.
        images: Of the training set.
        kept: Bytes that one image keeps for backward.
        start: Batch and steps -> a fresh loop.
    """
    rates, left_out, until = {batch: rate}, dict[int, str](), time.perf_counter() + BUDGET
    for size in around(batch, images):
        needed = (WARM + TIMED) * size / rate
        if time.perf_counter() + needed > until:
            left_out[size] = f"would take {needed:.0f} s"
        elif 3 * kept * size > _free(where.device) / 2:
            left_out[size] = "would need more than half of the free memory"
        else:
            talk.say(f"a batch of {size} ...")
            found = _rate(size, start)
            if isinstance(found, str):
                left_out[size] = found
            else:
                rates[size] = found
        gc.collect()
        if where.device.type == "cuda":
            torch.cuda.empty_cache()
    best = max(rates.values())
    return {
        "images_per_second": {str(n): rates[n] for n in sorted(rates)},
        "left_out": {str(n): why for n, why in left_out.items()},
        "enough": min(n for n, found in rates.items() if found >= ENOUGH * best),
    }


def _rate(size: int, start: Callable[[int, int], Loop]) -> float | str:
    """Images per second, or why there is no telling."""
    try:
        loop = start(size, WARM + 2 * TIMED)
        for _ in range(WARM):
            loop.step()
        return size / statistics.median(loop.times(TIMED).together)
    except Problem as problem:
        return problem.message
    except Exception as error:
        if not out_of_memory(error):
            raise
        return "does not fit into memory"


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    facts = _checks.memory().facts
    free = facts.get("available", 2**40)  # where the system does not tell, want of memory is caught
    return min(free, facts.get("limit") or free)
