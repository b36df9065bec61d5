"""Colour jitter, grayscale, blur and solarize on a batch, each image with its own parameters.

All functions work in place on float32 [n, C, H, W] in [0, 1], C 1 or 3, contiguous, and take
parameters on the CPU, so that what can be skipped is known without asking the device. On images
of one channel saturation, hue and grayscale do nothing.

Source: torchvision.transforms.v2.functional on float tensors, which clamp after every operation.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from clctl.views.draw import CONTRAST, HUE, SATURATION, Drawn

LUMA = (0.2989, 0.587, 0.114)
NO_HUE, UNTOUCHED = 4, 5


def gray(view: Tensor) -> Tensor:
    """Luma [n, 1, H, W]; of one channel the view itself."""
    if view.shape[1] == 1:
        return view
    out = view[:, :1] * LUMA[0]
    return out.add_(view[:, 1:2], alpha=LUMA[1]).add_(view[:, 2:], alpha=LUMA[2])


def alike(drawn: Drawn) -> Iterator[Tensor]:
    """Rows of the images that have hue at one and the same place of their order, if at all.

    Such images are worked on together without copies: within a part, those that become grey
    and those that are blurred each lie side by side, in slices of it as well.
    """
    place = _places(drawn.factors, drawn.order)
    blurred = drawn.sigma > 0
    corner = torch.where(blurred, 3 - drawn.grayscale.int(), drawn.grayscale.int())
    rank = (4 * place + corner).argsort(stable=True)
    yield from rank.split(place.bincount(minlength=UNTOUCHED + 1).tolist())


def recolor_(view: Tensor, drawn: Drawn) -> None:
    """Jitter, then grayscale, of the images that `drawn` has a row for each."""
    jitter_(view, drawn.factors, drawn.order)
    grayscale_(view, drawn.grayscale)


def jitter_(view: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue: factors [n, 4], each image in its order [n, 4]."""
    if view.shape[1] == 1:
        factors = factors.clone()
        factors[:, SATURATION], factors[:, HUE] = 1.0, 0.0
    found = _places(factors, order)
    for place in found.unique().tolist():
        if place != UNTOUCHED:
            _on(view, found == place, _jitter, place, factors, order)
    return view


def grayscale_(view: Tensor, chosen: Tensor) -> Tensor:
    """The images at `chosen` (bool [n]) become grey."""
    if view.shape[1] == 1:
        return view
    return _on(view, chosen, lambda part: part.copy_(gray(part)))


def blur_(view: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur where sigma [n], in pixels, is above 0.

    The kernel is `kernel` pixels wide (odd); borders reflect, so half of it must be less than
    the side of the view.
    """
    return _on(view, sigma > 0, _blur, sigma, kernel)


def solarize_(view: Tensor, chosen: Tensor, threshold: float) -> Tensor:
    """Invert what is at or above `threshold` in the images at `chosen` (bool [n])."""
    # 1 - x is |x - 1|: several times faster on a processor than torch.where.
    return _on(view, chosen, lambda part: part.sub_((part >= threshold).float()).abs_())


def _on(view: Tensor, chosen: Tensor, op: Callable[..., object], *given: Tensor | int) -> Tensor:
    """Run `op` in place on the chosen images, with their rows of the given tensors."""
    at = chosen.nonzero()[:, 0]
    if len(at) == 0:
        return view
    rows = [g[at] if isinstance(g, Tensor) else g for g in given]
    first, last = int(at[0]), int(at[-1]) + 1
    if last - first == len(at):
        op(view[first:last], *rows)
    else:
        at = at.to(view.device, non_blocking=True)
        part = view.index_select(0, at)
        op(part, *rows)
        view.index_copy_(0, at, part)
    return view


def _places(factors: Tensor, order: Tensor) -> Tensor:
    """Where hue stands in each order, 0 to 3; 4 for images without, 5 if left as is: [n]."""
    place = (order == HUE).int().argmax(1)
    still = factors == torch.tensor([1.0, 1.0, 1.0, 0.0])
    place = torch.where(still[:, HUE], NO_HUE, place)
    return torch.where(still.all(1), UNTOUCHED, place)


def _jitter(view: Tensor, place: int, factors: Tensor, order: Tensor) -> None:
    """Jitter images that all have hue at one place, or none of them at all."""
    rest = order[order != HUE].view(-1, 3)
    for i, op in enumerate(rest.unbind(1)):
        if i == place:
            hue_(view, factors[:, HUE])
        _blend(view, op, factors.gather(1, op[:, None])[:, 0])
    if place == 3:
        hue_(view, factors[:, HUE])


def _blend(view: Tensor, op: Tensor, factor: Tensor) -> None:
    """One of brightness, contrast and saturation on each image.

    All three are factor * x + (1 - factor) * reference, where the reference is black, the mean
    of the luma, or the luma.
    """
    if (factor == 1).all():
        return
    share = torch.stack(
        [factor, (1 - factor) * (op == CONTRAST), (1 - factor) * (op == SATURATION)]
    )
    ratio, flat, luma = share[..., None, None, None].to(view.device, non_blocking=True)
    if share[1:].any():
        reference = gray(view)
        mean = reference.flatten(1).mean(1)[:, None, None, None]
        reference = torch.addcmul(mean * flat, reference, luma)
        torch.addcmul(reference, view, ratio, out=view)
    else:
        view.mul_(ratio)
    view.clamp_(0, 1)


def hue_(view: Tensor, turns: Tensor) -> None:
    """Shift the hue of HSV by `turns` [n]; value and saturation stay. Three channels."""
    red, green, blue = view.unbind(1)
    value = torch.maximum(red, green)
    torch.maximum(value, blue, out=value)
    least = torch.minimum(red, green)
    torch.minimum(least, blue, out=least)
    chroma = value.sub_(least)
    # A grey pixel has no hue; any stands, as its chroma of 0 hides it.
    unit = chroma.clamp(min=1e-20).reciprocal_()
    # Hue counted in sixths of a turn from red, in [-3, 3]. With r and d = g - b in units of
    # the chroma, |hue| is |d| within a sixth of red, 2 - r in the next sixth and 3 - |d| beyond:
    # all three are 2 - r - (1 - |d|) (2 r - 1), and the sign is that of d.
    r = (red - least).mul_(unit)
    d = (green - blue).mul_(unit)
    hue = d.abs().sub_(1).mul_(2 * r - 1).sub_(r).add_(2).copysign_(d)
    hue.add_((6 * turns).to(view.device, non_blocking=True)[:, None, None])
    hue.sub_(torch.round(hue / 6).mul_(6))
    # Back: with w the distance of the hue from a channel's own (at most 3), the channel is the
    # least plus the chroma times 2 - w, clamped to [0, 1]; and w is 3 - ||hue - own| - 3|.
    own = torch.tensor([0.0, 2.0, -2.0])[:, None, None].to(view.device, non_blocking=True)
    torch.sub(hue[:, None], own, out=view)
    view.abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(least[:, None], view, chroma[:, None], out=view)


def _blur(view: Tensor, sigma: Tensor, kernel: int) -> None:
    radius = kernel // 2
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).T[..., None, None, None]
    weights = weights.to(view.device, non_blocking=True)
    # A sum of shifted views, first along rows, then along columns: faster on a processor than
    # a depthwise convolution, at 3 taps as at 23.
    for dim, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        side = view.shape[dim]
        wide = F.pad(view, pad, mode="reflect")
        torch.mul(wide.narrow(dim, 0, side), weights[0], out=view)
        for i in range(1, kernel):
            view.addcmul_(wide.narrow(dim, i, side), weights[i])
