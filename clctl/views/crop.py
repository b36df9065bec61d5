"""Crop, resize, affine and flips: where every pixel of a view comes from.

A view whose crop shrinks on neither side takes one bilinear look-up per pixel. Where a side
shrinks, the crop is filtered down first: image by image in uint8 on a processor, where that is
fastest, and as two batched matrix products elsewhere. Each image takes its path by its own box.

Source: torchvision.transforms.v2 `resized_crop` (bilinear, antialias) and `affine` (bilinear,
zeros), in the order crop, affine, left-right flip, up-down flip.
Differs: where nothing shrinks, crop and affine are one resampling, not two, so that pictures
stay sharper; views that shrink on a processor are rounded to 8 bits, as torchvision rounds them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clctl.images import Images


def resample(
    images: Images,
    rows: Tensor,
    box: Tensor,
    size: int,
    flips: Tensor | None = None,
    affine: Tensor | None = None,
) -> Tensor:
    """Views [n, C, size, size] of n images: float32 in [0, 1], contiguous, on their device.

    Args:
        images: Canvas on any device.
        rows: int64 [n] on the CPU, which images.
        box: int64 [n, 4] on the CPU: top, left, height, width.
        size: Side of a view in pixels.
        flips: bool [n, 2] on the CPU: left-right, up-down; None for none.
        affine: float32 [n, 4] on the CPU: angle in degrees, shift right and down as shares of
            the side, scale; None for none.
    """
    if flips is None:
        flips = torch.zeros(len(rows), 2, dtype=torch.bool)
    shrinks = (box[:, 2:] > size).any(1)
    if not shrinks.any():
        return _look_up(images, rows, box, size, flips, affine)
    if shrinks.all():
        return _filter(images, rows, box, size, flips, affine)
    device = images.canvas.device
    out = torch.empty(len(rows), images.canvas.shape[1], size, size, device=device)
    for path, chosen in ((_look_up, ~shrinks), (_filter, shrinks)):
        at = chosen.nonzero()[:, 0]
        moved = None if affine is None else affine[at]
        part = path(images, rows[at], box[at], size, flips[at], moved)
        out.index_copy_(0, at.to(device, non_blocking=True), part)
    return out


def _look_up(
    images: Images, rows: Tensor, box: Tensor, size: int, flips: Tensor, affine: Tensor | None
) -> Tensor:
    """The path of crops that shrink on neither side: there, antialiasing does nothing."""
    device = images.canvas.device
    extent = torch.tensor(images.canvas.shape[:1:-1], dtype=torch.float64)
    start, span = box[:, [1, 0]].double(), box[:, [3, 2]].double()
    # From pixels about the centre of the view to grid_sample's [-1, 1] over the canvas. Points
    # stop at the centres of the outermost pixels of the crop, as torchvision's edges do.
    scale, centre = 2 * span / (size * extent), (2 * start + span) / extent - 1
    first, last = (2 * start + 1) / extent - 1, (2 * (start + span) - 1) / extent - 1
    place = torch.stack([scale, centre, first, last]).mT.float()[..., None]  # [4, 2, n, 1]
    if affine is None:
        points = _along(place, _pixels(size) * _signs(flips)).to(device, non_blocking=True)
        grid = points.new_empty(2, len(rows), size, size)
        grid[0], grid[1] = points[0, :, None, :], points[1, :, :, None]
        cover = None
    else:
        grid = _spots(affine, flips, size, device)
        edge = (size - 1) / 2
        # Bilinear with zeros outside fades over one pixel beyond the outermost centres.
        beyond = (grid.abs().sub_(edge + 1)).neg_().clamp_(0, 1)
        cover = beyond[0].mul_(beyond[1])[:, None]
        place = place[..., None].to(device, non_blocking=True)
        grid = _along(place, grid.clamp_(-edge, edge))
    raw = images.take(rows).canvas.to(torch.float32, memory_format=torch.contiguous_format)
    view = F.grid_sample(raw, grid.movedim(0, 3), padding_mode="border", align_corners=False)
    return view.mul_(1 / 255) if cover is None else view.mul_(cover.mul_(1 / 255))


def _along(place: Tensor, spot: Tensor) -> Tensor:
    """Positions on the canvas of spots in the view; `spot` is overwritten."""
    scale, centre, first, last = place
    return spot.mul_(scale).add_(centre).clamp_(first, last)


def _pixels(size: int) -> Tensor:
    """Centres of a row of pixels, counted from the middle of the row."""
    return torch.arange(size) + (0.5 - size / 2)


def _signs(flips: Tensor) -> Tensor:
    """[2, n, 1]: -1 along x or y where an image is flipped, else 1."""
    return (1 - 2 * flips.float()).T[..., None]


def _spots(affine: Tensor, flips: Tensor, size: int, device: torch.device) -> Tensor:
    """[2, n, size, size]: x and y, before flips and affine, of each pixel of the view."""
    angle = affine[:, 0].double().deg2rad()
    scale = affine[:, 3].double()
    cos, sin = (angle.cos() / scale)[:, None], (angle.sin() / scale)[:, None]
    x, y = _pixels(size) * _signs(flips) - size * affine[:, 1:3].double().T[..., None]
    lines = torch.stack([cos * x, sin * y, -sin * x, cos * y]).float()
    lines = lines.to(device, non_blocking=True)
    spots = lines.new_empty(2, len(affine), size, size)
    for i in (0, 1):
        torch.add(lines[2 * i, :, None, :], lines[2 * i + 1, :, :, None], out=spots[i])
    return spots


def _filter(
    images: Images, rows: Tensor, box: Tensor, size: int, flips: Tensor, affine: Tensor | None
) -> Tensor:
    """The path of crops that shrink: filtered down, then moved where there is an affine."""
    kernel = shrink_each if images.canvas.device.type == "cpu" else shrink_together
    if affine is None:
        return kernel(images, rows, box, size, flips)
    view = kernel(images, rows, box, size, torch.zeros_like(flips))
    grid = _spots(affine, flips, size, view.device).mul_(2 / size)
    return F.grid_sample(view, grid.movedim(0, 3), align_corners=False)


def shrink_each(images: Images, rows: Tensor, box: Tensor, size: int, flips: Tensor) -> Tensor:
    """Crop, resize and flip one image after the other, in uint8; the processor's path."""
    out = torch.empty(len(rows), size, size, images.canvas.shape[1], dtype=torch.uint8)
    todo = zip(rows.tolist(), box.tolist(), flips.tolist(), strict=True)
    for i, (row, (top, left, height, width), (mirrored, upside)) in enumerate(todo):
        part = images.canvas[row : row + 1, :, top : top + height, left : left + width]
        part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        turned = [dim for dim, flag in ((3, mirrored), (2, upside)) if flag]
        out[i] = (part.flip(turned) if turned else part)[0].permute(1, 2, 0)
    view = out.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return view.mul_(1 / 255)


def shrink_together(images: Images, rows: Tensor, box: Tensor, size: int, flips: Tensor) -> Tensor:
    """Crop, resize and flip as two batched products with triangle filters; any device."""
    canvas = images.take(rows).canvas
    facts = torch.cat([box.float(), 1 - 2 * flips.float()], dim=1)[..., None, None]
    top, left, height, width, across_sign, down_sign = facts.to(
        canvas.device, non_blocking=True
    ).unbind(1)
    down = _triangles(top, height, canvas.shape[2], size, down_sign)
    across = _triangles(left, width, canvas.shape[3], size, across_sign)
    raw = canvas.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    return down[:, None] @ (raw @ across.mT[:, None])


def _triangles(start: Tensor, span: Tensor, side: int, size: int, sign: Tensor) -> Tensor:
    """[n, size, side]: share of each pixel of a line of the canvas in each pixel of the view.

    start, span, sign: float32 [n, 1, 1], the crop along that line, and -1 where it is flipped.
    """
    pixel = torch.arange(side, device=start.device) + 0.5 - start
    target = _pixels(size).to(start.device)[:, None]
    share = pixel - (span / 2 + sign * target * (span / size))
    share = share.abs_().div_((span / size).clamp(min=1)).neg_().add_(1).clamp_(min=0)
    share *= (pixel > 0) & (pixel < span)
    return share.div_(share.sum(2, keepdim=True))
