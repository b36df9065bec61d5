"""What happens to each image of a batch in one view, drawn ahead of any pixel work.

One table of uniform numbers holds a fixed number of columns per image, whatever the policy and
the images are. So row i depends on the generator and i alone, an operation that is added to a
policy does not change the others, and a batch that is split over ranks is drawn whole and sliced.

Source: torchvision.transforms.v2 for every distribution.
Differs: shifts of the affine are not rounded to whole pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clctl.recipe.policy import Affine, Crop, Jitter, ViewGroup

TRIES = 10  # crops that are tried before the central one is taken
COLUMNS = {
    "area": TRIES,
    "ratio": TRIES,
    "corner": 2,
    "affine": 5,
    "flips": 2,
    "jitter": 5,
    "order": 4,
    "grayscale": 1,
    "blur": 2,
    "solarize": 1,
}
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class Drawn:
    """Parameters of one view of B images, on the CPU.

    Attributes:
        box: int64 [B, 4], the crop: top, left, height, width in pixels of the image.
        affine: float32 [B, 4], angle in degrees, shift right and down as shares of the side,
            scale; None where the policy moves nothing.
        flips: bool [B, 2], left-right and up-down.
        factors: float32 [B, 4], brightness, contrast and saturation (1 leaves as is), and hue in
            turns (0 leaves as is).
        order: int64 [B, 4], the order in which the four are applied.
        grayscale: bool [B].
        sigma: float32 [B], width of the blur in pixels of the view, 0 for none.
        solarize: bool [B].
    """

    box: Tensor
    affine: Tensor | None
    flips: Tensor
    factors: Tensor
    order: Tensor
    grayscale: Tensor
    sigma: Tensor
    solarize: Tensor

    def __len__(self) -> int:
        return len(self.box)

    def rows(self, rows: slice | Tensor) -> "Drawn":
        """The parameters of the images at `rows`."""
        values = vars(self).items()
        picked: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values}
        return Drawn(**picked)


def draw(group: ViewGroup, sizes: Tensor, generator: torch.Generator) -> Drawn:
    """Draw one view of each image.

    Args:
        group: The policy.
        sizes: int64 [B, 2], height and width of each image, at least 1.
        generator: On the CPU; it moves on by the same amount whatever the policy and sizes.
    """
    wide = sum(COLUMNS.values())
    table = torch.rand(len(sizes), wide, generator=generator, dtype=torch.float64)
    u = dict(zip(COLUMNS, table.split(list(COLUMNS.values()), dim=1), strict=True))
    if group.crop is None:
        box = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
    else:
        box = _boxes(group.crop, sizes, u["area"], u["ratio"], u["corner"])
    factors, order = _jitter(group.jitter, u["jitter"], u["order"])
    if group.blur is None:
        sigma = torch.zeros(len(sizes))
    else:
        sigma = _between(u["blur"][:, 1], *group.blur.sigma)
        sigma = torch.where(u["blur"][:, 0] < group.blur.p, sigma, 0.0).float()
    solarize = 0.0 if group.solarize is None else group.solarize.p
    return Drawn(
        box=box,
        affine=None if group.affine is None else _affine(group.affine, u["affine"]),
        flips=u["flips"] < torch.tensor([group.hflip, group.vflip], dtype=torch.float64),
        factors=factors,
        order=order,
        grayscale=u["grayscale"][:, 0] < group.grayscale,
        sigma=sigma,
        solarize=u["solarize"][:, 0] < solarize,
    )


def central(sizes: Tensor) -> Tensor:
    """Box [B, 4] of the central square of each image, placed as torchvision's CenterCrop."""
    side = sizes.amin(1, keepdim=True)
    corner = ((sizes - side) / 2).round().long()
    return torch.cat([corner, side, side], dim=1)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _boxes(crop: Crop, sizes: Tensor, area: Tensor, ratio: Tensor, corner: Tensor) -> Tensor:
    """Random boxes [B, 4]: the first try that fits, else the largest central one."""
    limit = sizes.double()
    high, wide = limit.unbind(1)
    low, top = torch.tensor(crop.ratio, dtype=torch.float64).log().tolist()
    pixels = _between(area, *crop.scale) * (high * wide)[:, None]
    ratio = _between(ratio, low, top).exp()
    tries = torch.stack([(pixels / ratio).sqrt().round(), (pixels * ratio).sqrt().round()], dim=2)
    fits = ((tries > 0) & (tries <= limit[:, None])).all(2)
    first = tries[torch.arange(len(sizes)), fits.int().argmax(1)]
    # Only an image narrower or wider than any allowed ratio loses pixels in the central crop.
    whole = torch.stack(
        [
            torch.minimum(high, (wide / crop.ratio[0]).round()),
            torch.minimum(wide, (high * crop.ratio[1]).round()),
        ],
        dim=1,
    ).clamp_(min=1)
    found = fits.any(1, keepdim=True)
    extent = torch.where(found, first, whole)
    spare = limit - extent
    start = torch.where(found, (corner * (spare + 1)).floor(), (spare / 2).floor())
    return torch.cat([start, extent], dim=1).long()


def _affine(affine: Affine, u: Tensor) -> Tensor:
    angle = _between(u[:, 1], -affine.rotate, affine.rotate)
    right = _between(u[:, 2], -affine.shift, affine.shift)
    down = _between(u[:, 3], -affine.shift, affine.shift)
    scale = _between(u[:, 4], *affine.scale)
    moved = torch.stack([angle, right, down, scale], dim=1)
    still = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    return torch.where(u[:, :1] < affine.p, moved, still).float()


def _jitter(jitter: Jitter | None, u: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    still = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    if jitter is None:
        return still.float().repeat(len(u), 1), torch.arange(4).repeat(len(u), 1)
    strength = (jitter.brightness, jitter.contrast, jitter.saturation)
    bounds = [(max(0.0, 1 - s), 1 + s) for s in strength] + [(-jitter.hue, jitter.hue)]
    moved = torch.stack([_between(u[:, 1 + i], *bound) for i, bound in enumerate(bounds)], dim=1)
    applied = u[:, :1] < jitter.p
    shuffled = order.argsort(dim=1, stable=True)
    return (
        torch.where(applied, moved, still).float(),
        torch.where(applied, shuffled, torch.arange(4)),
    )


def describe(drawn: Drawn, i: int) -> list[str]:
    """What happens to image i, in words, in the order in which it happens."""
    top, left, height, width = drawn.box[i].tolist()
    words = [f"crop {width}x{height} at {left},{top}"]
    if drawn.affine is not None:
        angle, right, down, scale = drawn.affine[i].tolist()
        words += [f"turn {angle:+.0f}°"] if angle else []
        words += [f"shift {right:+.0%} right, {down:+.0%} down"] if right or down else []
        words += [f"scale {scale:.2f}"] if scale != 1 else []
    mirrored = zip(("flip left-right", "flip up-down"), drawn.flips[i].tolist(), strict=True)
    words += [word for word, flag in mirrored if flag]
    names = ("brightness", "contrast", "saturation", "hue")
    for op in drawn.order[i].tolist():
        factor = drawn.factors[i, op].item()
        if op == HUE and factor != 0:
            words.append(f"hue {360 * factor:+.0f}°")
        elif op != HUE and factor != 1:
            words.append(f"{names[op]} {factor:.2f}")
    words += ["grayscale"] if drawn.grayscale[i] else []
    words += [f"blur {drawn.sigma[i].item():.2f} px"] if drawn.sigma[i] else []
    words += ["solarize"] if drawn.solarize[i] else []
    return words
