"""Colour jitter and grayscale of each view as one affine map of colour, for `color: matrix`.

Brightness, contrast, saturation and grayscale are such maps, and are composed with hue in the drawn
order. A shift of hue in HSV is linear only where the order of the three channels stays, so each
view gets the linear map that comes closest to it on a few pixels of its own crop: on photographs
it errs a third as much as a rotation about the grey axis.

Differs: from `clctl.views.color` in hue, and in that values are clamped once at the end, not after
every operation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clctl.images import Images
from clctl.views.color import LUMA, hue_
from clctl.views.draw import CONTRAST, HUE, SATURATION, Drawn

Normal = tuple[tuple[float, float, float], tuple[float, float, float]]
GRID = 5  # pixels along a side of the crop that hue is fitted on
RIDGE = 1e-4  # of the chroma: holds colours that a crop hardly has to the rotation
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and deviation that change nothing


@dataclass(frozen=True)
class Maps:
    """Maps of n views, C channels: x -> linear @ x + mean @ (mean of x over the view) + shift.

    Attributes:
        linear: float32 [n, C, C], on the device of the images.
        mean: float32 [n, C, C], there too.
        shift: float32 [C, 1], there too.
        limits: What each channel is clamped to.
    """

    linear: Tensor
    mean: Tensor
    shift: Tensor
    limits: tuple[tuple[float, float], ...]


def moves(drawn: Drawn) -> Tensor:
    """Whether any colour of a view changes: bool [n]."""
    return (drawn.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1) | drawn.grayscale


def alike(drawn: Drawn) -> Iterator[Tensor]:
    """Rows of the views whose colours stay, and of the others.

    Within a part those that are blurred and those that are solarized each lie side by side.
    """
    moved, solarized = moves(drawn), drawn.solarize.int()
    corner = torch.where(drawn.sigma > 0, 3 - solarized, solarized)
    rank = (4 * moved.int() + corner).argsort(stable=True)
    yield from rank.split(moved.int().bincount(minlength=2).tolist())


def maps(images: Images, drawn: Drawn, normal: Normal = PLAIN) -> Maps:
    """The maps of `drawn`, which holds one view of all images after the other.

    Args:
        images: Anywhere; hue is fitted on their pixels there.
        drawn: The parameters of the views.
        normal: Mean and standard deviation that the colours are normalised with.
    """
    device, channels = images.canvas.device, images.canvas.shape[1]
    weights = LUMA if channels == 3 else (1.0,)
    luma = torch.tensor([weights]).to(device, non_blocking=True)
    found = _weights(drawn, sum(weights)).T[..., None, None].to(device, non_blocking=True)
    own, pixel, pixel_shifted, level, level_shifted = found
    turns = drawn.factors[:, HUE]
    if channels == 3 and turns.any():
        hue = fitted(sample(images, drawn.box), turns)
    else:
        hue = torch.eye(channels, device=device).expand(len(drawn), -1, -1)
    shifted = luma @ hue  # [n, 1, C]: the luma of the pixel with its hue shifted
    facts = torch.tensor(normal)[:, :channels, None].to(device, non_blocking=True)
    return Maps(
        linear=(own * hue + pixel * luma + pixel_shifted * shifted) / facts[1],
        mean=(level * luma + level_shifted * shifted) / facts[1],
        shift=-facts[0] / facts[1],
        limits=tuple((-m / s, (1 - m) / s) for m, s in zip(*normal, strict=True))[:channels],
    )


def recolor(view: Tensor, maps: Maps, rows: Tensor) -> Tensor:
    """The views at `rows` of the maps, float32 [n, C, H, W] in [0, 1], with their new colours."""
    at, pixels = rows.to(view.device, non_blocking=True), view.flatten(2)
    means = pixels.mean(2, keepdim=True)
    offset = maps.mean.index_select(0, at) @ means + maps.shift
    out = torch.baddbmm(offset, maps.linear.index_select(0, at), pixels)
    for channel, (low, high) in zip(out.unbind(1), maps.limits, strict=True):
        channel.clamp_(low, high)
    return out.view_as(view)


def _weights(drawn: Drawn, total: float) -> Tensor:
    """What a pixel x of a view becomes, after the jitter in its order and grayscale: [n, 5].

    With h the map of hue, l the luma and m the mean over the view it is h(x), and four greys, with
    these weights: l(x), l(h(x)), l(m), l(h(m)). No more is needed, as h leaves grey as it is, and
    no operation but hue does other than scale and add grey. `total`: luma of white.
    """
    op = torch.cat([drawn.order, torch.full((len(drawn), 1), SATURATION)], dim=1)
    keep = drawn.factors.gather(1, drawn.order).masked_fill_(drawn.order == HUE, 1.0)
    keep = torch.cat([keep, torch.where(drawn.grayscale, 0.0, 1.0)[:, None]], dim=1)
    own = torch.cat([torch.ones(len(drawn), 1), keep.cumprod(1)], dim=1)  # before and after each
    turned = (op == HUE).cumsum(1)
    luma = torch.stack([own[:, :-1] * (1 - turned), own[:, :-1] * turned], dim=2)
    saturation, contrast = (1 - keep) * (op == SATURATION), (1 - keep) * (op == CONTRAST)
    grey, level = torch.zeros(2, len(drawn), 2)
    columns = (each[..., None].unbind(1) for each in (keep, saturation, contrast))
    for own_luma, factor, blend, flat in zip(luma.unbind(1), *columns, strict=True):
        # The luma of what is there, in those four; its mean over the view has but the last two.
        here = torch.add(own_luma, grey, alpha=total)
        there = level * total
        level = factor * level + blend * there + flat * (here + there)
        grey = factor * grey + blend * here
    return torch.cat([own[:, -1:], grey, level], dim=1)


def sample(images: Images, box: Tensor) -> Tensor:
    """Pixels of a grid over each crop, [n, C, GRID, GRID] in [0, 1]; box as of `maps`."""
    device = images.canvas.device
    top, left, high, wide = box.to(device, non_blocking=True).T[..., None]
    spot = (torch.arange(GRID, device=device) + 0.5) / GRID
    down, right = (top + spot * high).long(), (left + spot * wide).long()
    image = torch.arange(len(box), device=device)[:, None, None] % len(images)
    lines = images.canvas.permute(0, 2, 3, 1)[image, down[:, :, None], right[:, None]]
    return lines.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255


def fitted(pixels: Tensor, turns: Tensor) -> Tensor:
    """The linear map that comes closest to a shift of hue on some pixels of each view.

    Grey stays. Least squares, held to `rotation` by a ridge.

    Args:
        pixels: float32 [n, 3, h, w] in [0, 1].
        turns: float32 [n], on the CPU.

    Returns:
        float32 [n, 3, 3].
    """
    turn = rotation(turns).to(pixels.device, non_blocking=True)
    shifted = pixels.clone()
    hue_(shifted, turns)
    chroma = (pixels[:, :2] - pixels[:, 2:]).flatten(2)
    # What the rotation misses, as products with the chroma that it is to be a function of.
    missed = shifted.flatten(2) @ chroma.mT - turn @ (pixels.flatten(2) @ chroma.mT)
    gram = chroma @ chroma.mT
    same = torch.eye(2, device=pixels.device)
    gram = gram + (RIDGE * _trace(gram) + 1e-6) * same
    determinant = gram[:, :1, :1] * gram[:, 1:, 1:] - gram[:, :1, 1:].square()
    more = missed @ (_trace(gram) * same - gram) / determinant
    return turn + torch.cat([more, -more.sum(2, keepdim=True)], dim=2)


def rotation(turns: Tensor) -> Tensor:
    """Rotations of colour about the grey axis, [n, 3, 3]; at thirds of a turn they are HSV's."""
    angle = 2 * torch.pi * (turns[:, None] - torch.arange(3) / 3)
    weight = (1 + 2 * angle.cos()) / 3
    return weight[:, torch.tensor([[0, 2, 1], [1, 0, 2], [2, 1, 0]])]


def _trace(square: Tensor) -> Tensor:
    """[n, 1, 1] of [n, 2, 2]."""
    return square.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
