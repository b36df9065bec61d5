"""Images in, views out: drawn for the whole batch at once, made chunk by chunk on the device."""

from collections.abc import Iterator
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.images import Images
from clctl.method import Batch
from clctl.recipe.policy import Jitter, ViewGroup, Views
from clctl.views import color, matrix
from clctl.views.crop import resample
from clctl.views.draw import Drawn, central, describe, draw

Three = tuple[float, float, float]


def make(
    images: Images,
    policy: Views,
    generator: torch.Generator,
    device: torch.device,
    part: tuple[slice, Tensor] | None = None,
) -> Batch:
    """The views of a batch, normalised: float32 [n, 3, size, size], channels_last, on `device`.

    They come group by group in the order of the policy.

    Args:
        images: The global batch, or a part of it; anywhere.
        policy: What is drawn.
        generator: On the CPU, keyed by the step.
        device: Where the pixel work is done.
        part: If `images` are only these rows of the global batch: the rows, and the sizes of all
            of its images. All are drawn, so that a view is the same however a batch is split.

    Raises:
        Problem: a blur is too wide for its view, or fused colours cannot be made on the device.
    """
    rows, sizes = part or (slice(None), images.sizes)
    here = images.to(device)
    views = []
    for group in policy.groups:
        size = group.size or policy.size
        drawn = draw(group, sizes.repeat(group.count, 1), generator)
        drawn = drawn.rows(torch.arange(len(drawn)).view(group.count, -1)[:, rows].flatten())
        out = torch.empty(len(drawn), size, size, 3, device=device)
        for at, view in _chunks(here, drawn, policy, group, (policy.mean, policy.std)):
            lines = view.permute(0, 2, 3, 1).contiguous()
            out.index_copy_(0, at.to(device, non_blocking=True), lines)
        views += out.permute(0, 3, 1, 2).chunk(group.count)
    return Batch(tuple(views))


def pictures(
    images: Images, policy: Views, generator: torch.Generator
) -> list[tuple[Tensor, list[list[str]]]]:
    """The views that `make` gives, to look at: one entry per view.

    Returns:
        For each view, uint8 [B, C, size, size] as before normalisation, and per image what was
        done to it, in words, in the order in which it was done.
    """
    found = []
    for group in policy.groups:
        size = group.size or policy.size
        drawn = draw(group, images.sizes.repeat(group.count, 1), generator)
        out = torch.empty(len(drawn), images.canvas.shape[1], size, size, dtype=torch.uint8)
        for at, view in _chunks(images, drawn, policy, group, None):
            out[at] = view.mul_(255).round_().clamp_(0, 255).byte().cpu()
        words = [describe(drawn, i) for i in range(len(drawn))]
        n = len(images)
        found += [(out[i : i + n], words[i : i + n]) for i in range(0, len(drawn), n)]
    return found


def prepare(images: Images, size: int, mean: Three, std: Three) -> Tensor:
    """Images as evaluation sees them: the central square, resized and normalised.

    Float32 [N, 3, size, size], channels_last, on the images' device. An image gives the same
    numbers whichever others are with it.
    """
    device = images.canvas.device
    out = torch.empty(len(images), size, size, 3, device=device)
    for rows in torch.arange(len(images)).split(_chunk(images, size)):
        view = resample(images, rows, central(images.sizes[rows]), size)
        out[rows[0] : rows[-1] + 1] = _normalised(view, mean, std).permute(0, 2, 3, 1)
    return out.permute(0, 3, 1, 2)


def colors_on(policy: Views, device: torch.device) -> ModuleType:
    """What makes colours one operation after the other: `color`, or for fused on CUDA its kernel.

    Raises:
        Problem: fused colours cannot be made on the device.
    """
    return _fused(device) if policy.color == "fused" and device.type == "cuda" else color


@cache
def _fused(device: torch.device) -> ModuleType:
    """`clctl.views.fused`, tried on one small view: Triton may be there and find no compiler."""
    try:
        from clctl.views import fused

        drawn = draw(ViewGroup(jitter=Jitter(p=1)), torch.full((1, 2), 4), torch.Generator())
        fused.recolor_(torch.zeros(1, 3, 4, 4, device=device), drawn)
    except Exception as error:  # of the import, of Triton, or of whatever compiler it found
        first = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise Problem(
            f"views.color is fused, but Triton does not work here: {first}",
            Exit.RESOURCES,
            "views.no-triton",
            "--set views.color=exact, which gives the same colours in more launches",
        ) from error
    return fused


def _chunks(
    images: Images,
    drawn: Drawn,
    policy: Views,
    group: ViewGroup,
    normal: matrix.Normal | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of a group, [n, C, size, size], each chunk with its rows of `drawn`.

    With a `normal` mean and deviation they are normalised, and one channel becomes three.
    `drawn` holds one view of all images after the other. Images with the same work on colours are
    worked on together, so chunks do not come in order.
    """
    size = group.size or policy.size
    kernel, limit = _kernel(group, size), _chunk(images, size)
    composed, moved = policy.color == "matrix", matrix.moves(drawn)
    # Blur is linear and may come after normalisation; solarize, and one channel that becomes
    # three, may not.
    early = normal if group.solarize is None and images.canvas.shape[1] == 3 else None
    maps = matrix.maps(images, drawn, early or matrix.PLAIN) if composed and moved.any() else None
    one_by_one = colors_on(policy, images.canvas.device)
    parts = matrix.alike(drawn) if composed else one_by_one.alike(drawn)
    for rows in (rows for part in parts for rows in part.split(limit) if len(rows)):
        one, missing = drawn.rows(rows), normal
        view = resample(images, rows % len(images), one.box, size, one.flips, one.affine)
        if maps is not None and moved[rows[0]]:
            view = matrix.recolor(view, maps, rows)
            missing = normal if early is None else None
        elif not composed:
            one_by_one.recolor_(view, one)
        color.blur_(view, one.sigma, kernel)
        if group.solarize is not None:
            color.solarize_(view, one.solarize, group.solarize.threshold)
        yield rows, view if missing is None else _normalised(view, *missing)


def _chunk(images: Images, size: int) -> int:
    """Views to make at once: on a processor what its last cache holds, elsewhere far more.

    2^19 pixels, 6 MB of floats, were 1.1 to 1.4 times as fast as 2^17 at 64 and 96 px on two cores
    with 32 MB between them, and as fast at 32 px. A thread per chunk instead of torch's own did not
    pay: the operations are too short.
    """
    high, wide = images.canvas.shape[2:]
    pixels = 2**19 if images.canvas.device.type == "cpu" else 2**22
    return max(1, pixels // max(size**2, high * wide // 16))


def _kernel(group: ViewGroup, size: int) -> int:
    """Width of the blur: the recipe's, else the odd number nearest to a tenth of the side."""
    kernel = max(3, size // 20 * 2 + 1)
    if group.blur is not None and group.blur.kernel is not None:
        kernel = group.blur.kernel
    if kernel // 2 >= size:
        raise Problem(
            f"a blur of {kernel} pixels is too wide for views of {size}",
            Exit.RECIPE,
            "recipe.blur-kernel",
            f"set the kernel to {2 * size - 1} or less, or to null for a tenth of the side",
        )
    return kernel


def _normalised(view: Tensor, mean: Three, std: Three) -> Tensor:
    """[n, 3, size, size], in place unless it has one channel, which becomes three."""
    shift, scale = torch.tensor([mean, std])[..., None, None].to(view.device, non_blocking=True)
    return view.expand(-1, 3, -1, -1).contiguous().sub_(shift).div_(scale)
