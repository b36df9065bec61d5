"""Whole views: policies, batches and the canvas, against torchvision image by image."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as oracle

from clctl.console import Exit, Problem
from clctl.images import Images
from clctl.recipe.policy import Affine, Blur, Crop, Jitter, Solarize, ViewGroup, Views
from clctl.rng import generator
from clctl.views.apply import make, pictures, prepare
from clctl.views.draw import describe, draw

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIMCLR = ViewGroup(count=2, crop=Crop(), hflip=0.5, jitter=Jitter(), grayscale=0.2, blur=Blur())
SMALL = SIMCLR.model_copy(update={"size": 16, "solarize": Solarize(p=0.5), "vflip": 0.5})
MOVED = SIMCLR.model_copy(update={"affine": Affine(p=0.7, shift=0.1, rotate=20)})


def images(n, height, width, channels=3):
    """Smooth pictures that fill their canvas."""
    coarse = torch.rand(n, channels, 5, 5, generator=generator("pictures", n, height, width))
    canvas = (F.interpolate(coarse, size=(height, width), mode="bilinear") * 255).round().byte()
    sizes = torch.tensor([[height, width]]).repeat(n, 1)
    return Images(canvas.contiguous(memory_format=torch.channels_last), sizes)


def policy(*groups, size=32):
    return Views(size=size, mean=MEAN, std=STD, groups=groups)


def one_by_one(source, group, drawn, size, kernel):
    """The views of a group in torchvision, normalised; no affine."""
    jitter = (
        oracle.adjust_brightness,
        oracle.adjust_contrast,
        oracle.adjust_saturation,
        oracle.adjust_hue,
    )
    views = []
    for i in range(len(drawn)):
        image = source.canvas[i].float() / 255
        top, left, high, wide = drawn.box[i].tolist()
        view = oracle.resized_crop(image, top, left, high, wide, [size, size], antialias=True)
        view = oracle.horizontal_flip(view) if drawn.flips[i, 0] else view
        view = oracle.vertical_flip(view) if drawn.flips[i, 1] else view
        for op in drawn.order[i].tolist():
            view = jitter[op](view, drawn.factors[i, op].item())
        if drawn.grayscale[i]:
            view = oracle.rgb_to_grayscale(view, num_output_channels=len(view))
        if drawn.sigma[i] > 0:
            view = oracle.gaussian_blur(view, [kernel, kernel], [drawn.sigma[i].item()] * 2)
        if drawn.solarize[i]:
            view = oracle.solarize(view, group.solarize.threshold)
        views.append(oracle.normalize(view.expand(3, -1, -1), list(MEAN), list(STD)))
    return torch.stack(views)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 40])
def test_make_is_torchvision_image_by_image(side, channels):
    source = images(40, side, side, channels)
    views = make(source, policy(SIMCLR, SMALL), generator("step", 3), CPU).views
    stream = generator("step", 3)
    assert [tuple(view.shape) for view in views] == [(40, 3, 32, 32)] * 2 + [(40, 3, 16, 16)] * 2
    for view, group in zip(views, (SIMCLR, SIMCLR, SMALL, SMALL), strict=True):
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        drawn = draw(group, source.sizes, stream)  # one view after the other
        expected = one_by_one(source, group, drawn, group.size or 32, kernel=3)
        apart = (view - expected).abs() * torch.tensor(STD)[:, None, None]
        # Where a crop shrinks it is rounded to 8 bits, and what is next to the threshold of
        # solarize may fall on its other side.
        shrinks = (drawn.box[:, 2:] > view.shape[2]).any(1)
        exact = ~shrinks & ~drawn.solarize
        assert exact.sum() > 10 or group is SMALL
        assert (apart[exact] < 1e-4).all()
        assert apart.mean() < 1 / 255


@pytest.mark.parametrize(("size", "kernel"), [(12, 3), (40, 5), (64, 7), (96, 9)])
def test_the_blur_is_a_tenth_of_the_side_unless_told(size, kernel):
    source = images(4, size, size)
    group = ViewGroup(blur=Blur(p=1.0, sigma=(2.0, 2.0)))
    (plain,) = make(source, policy(group, size=size), generator("a"), CPU).views
    drawn = draw(group, source.sizes, generator("a"))
    expected = one_by_one(source, group, drawn, size, kernel)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-4)
    told = ViewGroup(blur=Blur(p=1.0, sigma=(2.0, 2.0), kernel=11))
    (wide,) = make(source, policy(told, size=size), generator("a"), CPU).views
    expected = one_by_one(source, told, drawn, size, 11)
    torch.testing.assert_close(wide, expected, rtol=0, atol=1e-4)


def test_a_blur_wider_than_its_view_is_refused():
    group = ViewGroup(size=8, blur=Blur(kernel=17))
    with pytest.raises(Problem, match="17 pixels is too wide for views of 8") as error:
        make(images(2, 8, 8), policy(group), generator("a"), CPU)
    assert (error.value.exit, error.value.code) == (Exit.RECIPE, "recipe.blur-kernel")


@pytest.mark.parametrize("group", [SIMCLR, SMALL, MOVED])
def test_a_view_does_not_depend_on_how_a_batch_is_split(group):
    source = images(24, 40, 28)
    whole = make(source, policy(group), generator("step", 9), CPU).views
    parts = []
    for rows in (slice(0, 1), slice(1, 13), slice(13, 24)):
        mine = source.take(torch.arange(24)[rows])
        part = rows, source.sizes
        parts.append(make(mine, policy(group), generator("step", 9), CPU, part).views)
    for view, *split in zip(whole, *parts, strict=True):
        assert [len(part) for part in split] == [1, 12, 11]
        torch.testing.assert_close(torch.cat(split), view, rtol=0, atol=2e-6)
    assert not torch.equal(whole[0], whole[1])


def ragged(filling):
    """Images of many sizes, single lines among them, and what lies beyond them."""
    sizes = torch.tensor([[40, 48], [20, 48], [40, 9], [1, 48], [40, 1], [1, 1], [33, 21]])
    source = images(len(sizes), 40, 48)
    canvas = source.canvas.clone(memory_format=torch.preserve_format)
    for line, (height, width) in zip(canvas, sizes.tolist(), strict=True):
        line[:, height:], line[:, :, width:] = filling, filling
    return Images(canvas, sizes)


@pytest.mark.parametrize("size", [16, 48])
def test_what_lies_beyond_an_image_is_not_seen(size):
    dark, bright = ragged(0), ragged(255)
    assert not torch.equal(dark.canvas, bright.canvas)
    for group in (SIMCLR, MOVED, ViewGroup()):
        for one, two in zip(
            make(dark, policy(group, size=size), generator("step"), CPU).views,
            make(bright, policy(group, size=size), generator("step"), CPU).views,
            strict=True,
        ):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-4)
    one, two = (prepare(source, size, MEAN, STD) for source in (dark, bright))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 64), (31, 20)])
def test_prepare_is_the_resized_central_square(height, width, channels):
    source = images(9, height, width, channels)
    found = prepare(source, 32, MEAN, STD)
    side = min(height, width)
    square = oracle.resize(oracle.center_crop(source.canvas, [side]), [32], antialias=True)
    expected = oracle.normalize((square.float() / 255).expand(-1, 3, -1, -1), list(MEAN), list(STD))
    apart = (found - expected).abs() * torch.tensor(STD)[:, None, None]
    # Where it grows, torchvision rounds twice, after rows and after columns.
    assert apart.max() < (1e-5 if side >= 32 else 1.01 / 255)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_prepare_gives_an_image_the_same_numbers_in_any_company():
    source = ragged(7)
    together = prepare(source, 24, MEAN, STD)
    for i in range(len(source)):
        assert torch.equal(prepare(source.take(torch.tensor([i])), 24, MEAN, STD)[0], together[i])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_views_before_normalisation_with_words(channels):
    source = images(10, 36, 36, channels)
    chosen = policy(SIMCLR, SMALL)
    found = pictures(source, chosen, generator("step"))
    views = make(source, chosen, generator("step"), CPU).views
    stream = generator("step")
    groups = (SIMCLR, SIMCLR, SMALL, SMALL)
    for (picture, words), view, group in zip(found, views, groups, strict=True):
        assert picture.dtype == torch.uint8
        assert picture.shape[1] == channels
        raw = view * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        assert (raw - picture.float() / 255).abs().max() < 0.51 / 255
        drawn = draw(group, source.sizes, stream)
        assert words == [describe(drawn, i) for i in range(10)]


def test_the_canvas_is_left_alone_and_labels_are_not_invented():
    source = images(6, 32, 32)
    before = source.canvas.clone()
    batch = make(source, policy(SIMCLR, MOVED), generator("step"), CPU)
    prepare(source, 32, MEAN, STD)
    assert torch.equal(source.canvas, before)
    assert batch.labels is None
