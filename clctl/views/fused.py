"""Colour jitter and grayscale of a whole chunk in one launch, for `color: fused` on CUDA.

What `clctl.views.color` does in some hundred launches a Triton kernel does in one: a program per
image takes the operations in the order that it loads, block of pixels by block, in registers.
Contrast needs the mean luma of the image as it stands there, so a first walk over the pixels does
what comes before contrast and sums; the second begins anew, and alone writes.

Differs: from `clctl.views.color` in the last digits, as sums are taken in another order.

This module needs Triton, which torch brings along on CUDA alone, so it is imported where it is used.
"""

from collections.abc import Iterator

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from clctl.views import color
from clctl.views.color import LUMA
from clctl.views.draw import CONTRAST, HUE, SATURATION, Drawn

NOTHING = 4  # in the place of an operation that leaves its image as it is
STEPS = 5  # the four of the jitter, and grayscale
BLOCK, WARPS = 1024, 8  # pixels, and groups of 32 threads that work on them

# A kernel reads no other globals.
_CONTRAST, _SATURATION = tl.constexpr(CONTRAST), tl.constexpr(SATURATION)
_HUE, _NOTHING = tl.constexpr(HUE), tl.constexpr(NOTHING)
_RED, _GREEN, _BLUE = tl.constexpr(LUMA[0]), tl.constexpr(LUMA[1]), tl.constexpr(LUMA[2])


def alike(drawn: Drawn) -> Iterator[Tensor]:
    """All rows as one part, in which those blurred and those solarized each lie side by side."""
    solarized = drawn.solarize.int()
    yield torch.where(drawn.sigma > 0, 3 - solarized, solarized).argsort(stable=True)


def recolor_(view: Tensor, drawn: Drawn) -> None:
    """Jitter and grayscale in place, as `color.recolor_`: contiguous float32 [n, C, H, W]."""
    if view.shape[1] == 1:
        return color.recolor_(view, drawn)  # brightness and contrast: few launches as it is
    assert view.is_contiguous()
    assert view.dtype == torch.float32
    steps = plan(drawn).to(view.device, non_blocking=True)
    pixels = view.shape[2] * view.shape[3]
    with torch.cuda.device_of(view):  # Triton launches on the current one
        recolor[len(view),](view, steps, pixels, STEPS, BLOCK, num_warps=WARPS)  # type: ignore[call-arg]


def plan(drawn: Drawn) -> Tensor:
    """What the kernel is to do to each image: float32 [n, 1 + 2 STEPS].

    How many operations come before contrast, -1 without contrast; then each operation and its
    factor. Grayscale is saturation with a factor of 0.
    """
    factors = drawn.factors.gather(1, drawn.order)
    still = factors == (drawn.order != HUE)
    ops = drawn.order.masked_fill(still, NOTHING)
    grayscale = torch.where(drawn.grayscale, SATURATION, NOTHING)
    ops = torch.cat([ops, grayscale[:, None]], dim=1)
    factors = torch.cat([factors, torch.zeros(len(drawn), 1)], dim=1)
    contrast = (ops == CONTRAST).int()
    before = torch.where(contrast.any(1), contrast.argmax(1), -1)
    pairs = torch.stack([ops, factors], dim=2).flatten(1)
    return torch.cat([before[:, None], pairs], dim=1)


@triton.jit
def recolor(view, steps, pixels, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """One image of `view`, float32 [n, 3, pixels], by its row of `steps`, which is `plan`'s."""
    image = tl.program_id(0).to(tl.int64)
    view += image * 3 * pixels
    steps += image * (1 + 2 * STEPS)
    before = tl.load(steps).to(tl.int32)
    steps += 1
    mean = 0.0
    if before >= 0:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, pixels, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < pixels
            red = tl.load(view + at, inside, other=0.0)
            green = tl.load(view + pixels + at, inside, other=0.0)
            blue = tl.load(view + 2 * pixels + at, inside, other=0.0)
            red, green, blue = _through(red, green, blue, steps, before, 0.0)
            total += _luma(red, green, blue)  # beyond the image all is black, and stays so
        mean = tl.sum(total, 0) / pixels
    for start in range(0, pixels, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < pixels
        red = tl.load(view + at, inside, other=0.0)
        green = tl.load(view + pixels + at, inside, other=0.0)
        blue = tl.load(view + 2 * pixels + at, inside, other=0.0)
        red, green, blue = _through(red, green, blue, steps, STEPS, mean)
        tl.store(view + at, red, inside)
        tl.store(view + pixels + at, green, inside)
        tl.store(view + 2 * pixels + at, blue, inside)


@triton.jit
def _through(red, green, blue, steps, count, mean):
    """A block of pixels after the first `count` steps."""
    for step in range(count):
        op = tl.load(steps + 2 * step).to(tl.int32)
        factor = tl.load(steps + 2 * step + 1)
        if op == _HUE:
            red, green, blue = _hue(red, green, blue, factor)
        elif op != _NOTHING:
            # As in color.py: all three blend with a grey, which is black for brightness.
            grey = tl.zeros_like(red)
            if op == _CONTRAST:
                grey += (1 - factor) * mean
            elif op == _SATURATION:
                grey = (1 - factor) * _luma(red, green, blue)
            red = tl.clamp(factor * red + grey, 0.0, 1.0)
            green = tl.clamp(factor * green + grey, 0.0, 1.0)
            blue = tl.clamp(factor * blue + grey, 0.0, 1.0)
    return red, green, blue


@triton.jit
def _luma(red, green, blue):
    return red * _RED + green * _GREEN + blue * _BLUE


@triton.jit
def _hue(red, green, blue, turns):
    """The arithmetic of color.hue_, where it is explained."""
    least = tl.minimum(tl.minimum(red, green), blue)
    chroma = tl.maximum(tl.maximum(red, green), blue) - least
    unit = tl.div_rn(1.0, tl.maximum(chroma, 1e-20))
    r = (red - least) * unit
    d = (green - blue) * unit
    hue = (tl.abs(d) - 1) * (2 * r - 1) - r + 2
    hue = tl.where(d < 0, -hue, hue) + 6 * turns
    hue -= 6 * tl.floor(hue * (1 / 6) + 0.5)
    return (
        least + chroma * _share(hue),
        least + chroma * _share(hue - 2),
        least + chroma * _share(hue + 2),
    )


@triton.jit
def _share(away):
    return tl.clamp(tl.abs(tl.abs(away) - 3) - 1, 0.0, 1.0)
