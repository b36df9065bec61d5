"""Each operation on pixels, against torchvision v2 with the same parameters."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from clctl.images import Images
from clctl.recipe.policy import Affine, Blur, Crop, Jitter, ViewGroup
from clctl.rng import generator
from clctl.views import color
from clctl.views.crop import resample, shrink_each, shrink_together
from clctl.views.draw import draw

LEVEL = 1 / 255


def images(n, height, width, channels=3):
    """Smooth pictures with edges, as photographs have them, on canvases of one size."""
    stream = generator("pictures", n, height, width, channels)
    coarse = torch.rand(n, channels, 5, 5, generator=stream)
    fine = torch.rand(n, channels, 17, 17, generator=stream)
    picture = F.interpolate(coarse, size=(height, width), mode="bicubic")
    picture += 0.3 * (F.interpolate(fine, size=(height, width), mode="bicubic") - 0.5)
    picture[:, :, height // 3 :, : width // 2] *= 0.5
    canvas = (picture.clamp(0, 1) * 255).round().byte()
    sizes = torch.tensor([[height, width]]).repeat(n, 1)
    return Images(canvas.contiguous(memory_format=torch.channels_last), sizes)


def photographs():
    root = os.environ.get("CLCTL_TEST_DATA")
    if root is None:
        pytest.skip("CLCTL_TEST_DATA names no folder")
    files = sorted(Path(root).glob("tiny_imagenet_20/train/*/*"))[::100]
    if not files:
        pytest.skip("no tiny_imagenet_20 there")
    lines = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    canvas = torch.from_numpy(lines).permute(0, 3, 1, 2)
    return Images(canvas, torch.tensor([canvas.shape[2:]]).repeat(len(files), 1))


def sequential(images, drawn, size, exact):
    """torchvision's operations on one image after the other; exact: in float, never rounded."""
    views = []
    for i in range(len(drawn)):
        image = images.canvas[i].float() / 255 if exact else images.canvas[i]
        top, left, high, wide = drawn.box[i].tolist()
        view = oracle.resized_crop(image, top, left, high, wide, [size, size], antialias=True)
        view = view if exact else view.float() / 255
        if drawn.affine is not None:
            angle, right, down, scale = drawn.affine[i].tolist()
            shift, mode = [right * size, down * size], InterpolationMode.BILINEAR
            view = oracle.affine(view, angle, shift, scale, [0.0, 0.0], interpolation=mode)
        view = oracle.horizontal_flip(view) if drawn.flips[i, 0] else view
        views.append(oracle.vertical_flip(view) if drawn.flips[i, 1] else view)
    return torch.stack(views)


SHAPES = [(32, 32, 32), (80, 64, 32), (20, 31, 48), (160, 120, 96), (9, 1, 12), (1, 40, 12)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_crop_is_torchvisions(height, width, size, channels):
    source = images(24, height, width, channels)
    drawn = draw(ViewGroup(crop=Crop(), hflip=0.5, vflip=0.5), source.sizes, generator("crop"))
    exact = sequential(source, drawn, size, exact=True)
    rounded = sequential(source, drawn, size, exact=False)
    rows = torch.arange(24)
    ours = resample(source, rows, drawn.box, size, drawn.flips)
    shrinks = (drawn.box[:, 2:] > size).any(1)
    assert (ours - exact)[~shrinks].abs().sum() <= 1e-5 * exact[~shrinks].numel()
    assert (ours - rounded)[shrinks].abs().sum() == 0 or (ours - rounded)[
        shrinks
    ].abs().max() < 1e-6
    assert (ours - rounded).abs().mean() < LEVEL
    together = shrink_together(source, rows, drawn.box, size, drawn.flips)
    torch.testing.assert_close(together, exact, rtol=0, atol=1e-5)
    each = shrink_each(source, rows, drawn.box, size, drawn.flips)
    torch.testing.assert_close(each, together, rtol=0, atol=1.01 * LEVEL)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_crop_on_photographs(size):
    source = photographs()
    drawn = draw(ViewGroup(crop=Crop()), source.sizes, generator("photo"))
    ours = resample(source, torch.arange(len(source)), drawn.box, size)
    assert (ours - sequential(source, drawn, size, exact=False)).abs().mean() < LEVEL


MOVES = Affine(shift=0.3, rotate=180, scale=(0.5, 1.5))


def test_affine_without_a_crop_is_torchvisions():
    source = images(32, 33, 33)
    group = ViewGroup(affine=MOVES, hflip=0.5, vflip=0.5)
    drawn = draw(group, source.sizes, generator("affine"))
    ours = resample(source, torch.arange(32), drawn.box, 33, drawn.flips, drawn.affine)
    expected = sequential(source, drawn, 33, exact=True)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("side", "size", "mean"), [(32, 32, 1.0), (40, 96, 0.5), (90, 32, 0.8)])
def test_crop_and_affine_are_close_to_one_after_the_other(side, size, mean):
    """One resampling is not two: the tolerance is a level or less of 255 on average."""
    source = images(32, side, side)
    group = ViewGroup(crop=Crop(), affine=MOVES, hflip=0.5, vflip=0.5)
    drawn = draw(group, source.sizes, generator("both"))
    ours = resample(source, torch.arange(32), drawn.box, size, drawn.flips, drawn.affine)
    apart = (ours - sequential(source, drawn, size, exact=False)).abs()
    assert apart.mean() < mean * LEVEL
    shrinks = (drawn.box[:, 2:] > size).any(1)  # there it is one after the other
    assert not shrinks.any() or apart[shrinks].max() < 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_in_its_order(channels):
    n = 120
    view = torch.rand(n, channels, 16, 16, generator=generator("noise"))
    view[:20] = view[:20, :1]  # grey: hue is undefined
    view[20:40] = (view[20:40] * 3).round() / 3  # ties between channels, black and white
    group = ViewGroup(jitter=Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5))
    drawn = draw(group, torch.ones(n, 2).long(), generator("jitter"))
    ops = (
        oracle.adjust_brightness,
        oracle.adjust_contrast,
        oracle.adjust_saturation,
        oracle.adjust_hue,
    )
    expected = view.clone()
    for i in range(n):
        for op in drawn.order[i].tolist():
            expected[i] = ops[op](expected[i], drawn.factors[i, op].item())
    ours = color.jitter_(view.clone(), drawn.factors, drawn.order)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    fixed = torch.arange(4).expand(n, 4)  # the order does matter on this input
    other = color.jitter_(view.clone(), drawn.factors, fixed)
    assert (other - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    ("channels", "kernel", "side"), [(3, 3, 16), (1, 5, 16), (3, 23, 40), (3, 1, 8)]
)
def test_blur_is_torchvisions(channels, kernel, side):
    view = torch.rand(30, channels, side, side, generator=generator("noise"))
    sigma = draw(ViewGroup(blur=Blur(p=0.6)), torch.ones(30, 2).long(), generator("blur")).sigma
    expected = view.clone()
    for i in range(30):
        if sigma[i] > 0:
            expected[i] = oracle.gaussian_blur(view[i], [kernel, kernel], [sigma[i].item()] * 2)
    ours = color.blur_(view.clone(), sigma, kernel)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert torch.equal(ours[sigma == 0], view[sigma == 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale_and_solarize_are_torchvisions(channels):
    view = torch.rand(20, channels, 8, 8, generator=generator("noise"))
    view[0] = 0.25  # at the threshold itself
    for chosen in (torch.arange(20) % 3 == 0, torch.arange(20) < 7, torch.arange(20) < 0):
        grey = oracle.rgb_to_grayscale(view, num_output_channels=channels)
        expected = torch.where(chosen[:, None, None, None], grey, view)
        assert torch.equal(color.grayscale_(view.clone(), chosen), expected)
        inverted = torch.where(chosen[:, None, None, None], oracle.solarize(view, 0.25), view)
        assert torch.equal(color.solarize_(view.clone(), chosen, 0.25), inverted)
