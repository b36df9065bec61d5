"""`views.color: matrix`, against loops, torchvision and the exact colours."""

import itertools

import pytest
import torch
from test_views_pixels import images, photographs
from torchvision.transforms.v2 import functional as oracle

from clctl.console import Exit, Problem
from clctl.images import Images
from clctl.recipe.identity import changes, digest, weights_part
from clctl.recipe.policy import Blur, Crop, Jitter, Solarize, ViewGroup, Views
from clctl.recipe.read import packaged, read
from clctl.rng import generator
from clctl.views import matrix
from clctl.views.apply import make, pictures
from clctl.views.color import LUMA
from clctl.views.draw import HUE, Drawn, draw

CPU = torch.device("cpu")
LEVEL = 1 / 255
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
JITTER = Jitter(brightness=0.1, contrast=0.4, saturation=0.4, hue=0.0)  # clamps no mid-grey
OPS = (
    oracle.adjust_brightness,
    oracle.adjust_contrast,
    oracle.adjust_saturation,
    oracle.adjust_hue,
)


def mid_grey(n, side, channels=3):
    """Pictures of 90 to 160 of 255, which no operation here takes out of [0, 255]."""
    noise = torch.randint(90, 161, (n, side, side, channels), generator=generator("grey", side))
    return Images(noise.byte().permute(0, 3, 1, 2), torch.tensor([[side, side]]).repeat(n, 1))


def policy(*groups, color="matrix", size=16, mean=MEAN, std=STD):
    return Views(size=size, mean=mean, std=std, color=color, groups=groups)


def both(source, *groups, size=16, key="step"):
    """The views in the exact and in the composed colours, in units of full white."""
    scale = torch.tensor(STD)[:, None, None]
    plans = (policy(*groups, color=color, size=size) for color in ("exact", "matrix"))
    made = (make(source, plan, generator(key), CPU).views for plan in plans)
    return [torch.cat(views) * scale for views in made]


def every_order(hue):
    """All orders of the four operations, each with and without grayscale."""
    order = torch.tensor(list(itertools.permutations(range(4)))).repeat(2, 1)
    n = len(order)
    factors = torch.rand(n, 4, generator=generator("factors")) + 0.5
    factors[:, HUE] = (factors[:, HUE] - 1) * 2 * hue
    factors[3] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return Drawn(
        box=torch.tensor([[0, 0, 6, 6]]).repeat(n, 1),
        affine=None,
        flips=torch.zeros(n, 2, dtype=torch.bool),
        factors=factors,
        order=order,
        grayscale=torch.arange(n) >= n // 2,
        sigma=torch.zeros(n),
        solarize=torch.zeros(n, dtype=torch.bool),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_is_its_operations_pixel_by_pixel(channels):
    """In every order, with hue as its linear map, clamped at the end alone."""
    drawn = every_order(hue=0.2)
    n = len(drawn)
    noise = torch.randint(0, 256, (n, 6, 6, channels), generator=generator("noise")).byte()
    source = Images(noise.permute(0, 3, 1, 2), torch.full((n, 2), 6))
    view = source.canvas.contiguous() / 255
    weights = LUMA if channels == 3 else (1.0,)
    hue = [None] * n
    if channels == 3:
        hue = matrix.fitted(matrix.sample(source, drawn.box), drawn.factors[:, HUE]).tolist()
    ours = matrix.recolor(view, matrix.maps(source, drawn), torch.arange(n))
    assert (ours == 0).any()
    assert (ours == 1).any()
    for i in range(n):
        points = view[i].flatten(1).T.tolist()
        for op in [*drawn.order[i].tolist(), "grayscale"]:
            luma = [sum(w * c for w, c in zip(weights, p, strict=True)) for p in points]
            average = sum(luma) / len(luma)
            if op == HUE:
                if channels == 3:
                    points = [
                        [sum(a * b for a, b in zip(r, p, strict=True)) for r in hue[i]]
                        for p in points
                    ]
                continue
            factor = (
                1 - float(drawn.grayscale[i]) if op == "grayscale" else drawn.factors[i, op].item()
            )
            for p, own in zip(points, luma, strict=True):
                rest = {0: 0.0, 1: average, 2: own, "grayscale": own}[op]
                p[:] = [factor * c + (1 - factor) * rest for c in p]
        expected = torch.tensor(points).T.reshape(channels, 6, 6).clamp(0, 1)
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_linear_and_not_clamped_is_torchvisions(channels):
    n = 60
    source = mid_grey(n, 12, channels)
    drawn = draw(ViewGroup(jitter=JITTER, grayscale=0.3), source.sizes, generator("linear"))
    view = source.canvas.contiguous() / 255
    ours = matrix.recolor(view, matrix.maps(source, drawn), torch.arange(n))
    for i in range(n):
        expected = view[i]
        for op in drawn.order[i].tolist():
            if op != HUE and (channels == 3 or op != 2):
                expected = OPS[op](expected, drawn.factors[i, op].item())
        if drawn.grayscale[i]:
            expected = oracle.rgb_to_grayscale(expected, num_output_channels=channels)
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-5)


def test_the_rotation_turns_about_grey():
    turns = torch.tensor([0.0, 0.1, -0.2, 0.5, 1 / 3])
    turn = matrix.rotation(turns)
    same = torch.eye(3)
    torch.testing.assert_close(turn @ torch.ones(3), torch.ones(5, 3))
    torch.testing.assert_close(turn @ turn.mT, same.expand(5, 3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(5))
    torch.testing.assert_close(turn[0], same, rtol=0, atol=1e-6)
    torch.testing.assert_close(turn[1] @ turn[2], matrix.rotation(turns[1:2] + turns[2:3])[0])
    picture = torch.rand(3, 8, 8, generator=generator("third"))
    expected = oracle.adjust_hue(picture, 1 / 3)
    torch.testing.assert_close(turn[4] @ picture.flatten(1), expected.flatten(1), rtol=0, atol=1e-5)


def test_the_map_of_hue_is_the_least_squares():
    n = 12
    pixels = torch.rand(n, 3, 5, 5, generator=generator("fit"))
    pixels[:4] = 0.5 + 0.1 * pixels[:4]
    turns = torch.linspace(-0.5, 0.5, n)
    ours = matrix.fitted(pixels, turns)
    for i in range(n):
        x = pixels[i].flatten(1).double()
        turn = matrix.rotation(turns[i : i + 1])[0].double()
        missed = oracle.adjust_hue(pixels[i], turns[i].item()).flatten(1).double() - turn @ x
        chroma = x[:2] - x[2:]
        ridge = (matrix.RIDGE * chroma.square().sum() + 1e-6).sqrt() * torch.eye(2).double()
        rows, wanted = torch.cat([chroma, ridge], 1).T, torch.cat([missed, 0 * missed[:, :2]], 1).T
        more = torch.linalg.lstsq(rows, wanted).solution.T
        expected = turn + torch.cat([more, -more.sum(1, keepdim=True)], 1)
        torch.testing.assert_close(ours[i].double(), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(ours.sum(2), torch.ones(n, 3), rtol=0, atol=1e-5)  # grey stays


def test_the_map_of_hue_is_hsvs_where_that_is_linear():
    """Where red stays the most and blue the least of all pixels."""
    blue, more, share = torch.rand(3, 20, 6, 6, generator=generator("sextant"))
    spread = 0.1 + 0.4 * more
    pixels = torch.stack(
        [0.4 * blue + spread, 0.4 * blue + (0.3 + 0.3 * share) * spread, 0.4 * blue], 1
    )
    turns = torch.linspace(-0.04, 0.06, 20)
    expected = torch.stack(
        [oracle.adjust_hue(p, t.item()) for p, t in zip(pixels, turns, strict=True)]
    )
    ours = matrix.fitted(pixels, turns) @ pixels.flatten(2)
    assert (ours - expected.flatten(2)).abs().max() < 0.3 * LEVEL
    turned = matrix.rotation(turns) @ pixels.flatten(2)
    assert (turned - expected.flatten(2)).abs().max() > 10 * LEVEL


def test_a_grey_picture_turns_as_the_rotation():
    pixels = torch.rand(3, 1, 5, 5, generator=generator("grey")).expand(-1, 3, -1, -1)
    turns = torch.tensor([0.0, 0.1, -0.4])
    torch.testing.assert_close(
        matrix.fitted(pixels.contiguous(), turns), matrix.rotation(turns), rtol=0, atol=1e-4
    )


BUSY = ViewGroup(
    count=2, crop=Crop(), hflip=0.5, jitter=JITTER, grayscale=0.2, blur=Blur(sigma=(0.5, 2.0))
)
SOLAR = BUSY.model_copy(update={"solarize": Solarize(p=0.5, threshold=0.3), "vflip": 0.5})


@pytest.mark.parametrize("channels", [1, 3])
def test_views_without_hue_are_the_exact_ones(channels):
    """Normalisation is part of the map, before blur; with solarize it is not."""
    exact, ours = both(mid_grey(40, 16, channels), BUSY, SOLAR)
    plain = exact[:80], ours[:80]
    torch.testing.assert_close(plain[1], plain[0], rtol=0, atol=1e-5)
    apart = (ours - exact)[80:].abs()  # what lies at the threshold may fall on its other side
    assert (apart > 1e-5).float().mean() < 1e-4


@pytest.mark.parametrize("solarize", [None, Solarize(p=0.3)])
def test_views_stay_within_black_and_white(solarize):
    strong = ViewGroup(jitter=Jitter(brightness=0.9, contrast=0.9, p=1.0), solarize=solarize)
    (view,) = make(images(30, 16, 16), policy(strong), generator("a"), CPU).views
    white = view * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert white.amin((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert white.amax((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_lies_over_the_crop(channels):
    """Drawn views hold all images, and then all images again."""
    source = images(5, 30, 40, channels)
    box = draw(ViewGroup(crop=Crop()), source.sizes.repeat(2, 1), generator("grid")).box
    box[0] = torch.tensor([29, 39, 1, 1])
    found = matrix.sample(source, box)
    assert found.shape == (10, channels, matrix.GRID, matrix.GRID)
    for i, (top, left, high, wide) in enumerate(box.tolist()):
        for y, x in itertools.product(range(matrix.GRID), repeat=2):
            row = top + int((y + 0.5) * high / matrix.GRID)
            column = left + int((x + 0.5) * wide / matrix.GRID)
            expected = source.canvas[i % 5, :, row, column] / 255
            torch.testing.assert_close(found[i, :, y, x], expected)


def test_views_are_the_exact_ones_where_hue_is_linear():
    """In pictures whose channels keep their order, as of sky."""
    shade = images(40, 24, 24, 1).canvas.float() / 255
    tint = torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    canvas = (255 * (0.25 + 0.2 * shade + (0.1 + 0.2 * shade.flip(3)) * tint)).round().byte()
    source = Images(canvas, torch.tensor([[24, 24]]).repeat(40, 1))
    hue = Jitter(p=1, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.06)
    exact, ours = both(source, ViewGroup(crop=Crop(), jitter=hue, grayscale=0.2), size=24)
    assert (ours - exact).abs().max() < LEVEL


def test_views_of_photographs_are_near_the_exact_ones():
    group = ViewGroup(crop=Crop(), jitter=Jitter(), grayscale=0.2, blur=Blur())
    exact, ours = both(photographs(), group, size=64)
    apart = (ours - exact).abs().flatten()
    assert apart.mean() < 2 * LEVEL
    assert apart.median() < LEVEL


def test_the_draws_are_the_same():
    source, group = images(20, 20, 20), BUSY.model_copy(update={"jitter": Jitter()})
    exact, ours = generator("draws"), generator("draws")
    first = pictures(source, policy(group, color="exact"), exact)
    second = pictures(source, policy(group), ours)
    assert [words for _, words in first] == [words for _, words in second]
    assert torch.equal(exact.get_state(), ours.get_state())
    assert not torch.equal(first[0][0], second[0][0])


@pytest.mark.parametrize("group", [BUSY, SOLAR])
def test_pictures_are_what_the_method_sees(group):
    source = images(20, 20, 20)
    group = group.model_copy(update={"jitter": Jitter()})
    views = make(source, policy(group), generator("look"), CPU).views
    shown = pictures(source, policy(group), generator("look"))
    for view, (seen, _) in zip(views, shown, strict=True):
        white = view * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        apart = (white - seen / 255).abs()
        assert (apart > 0.51 * LEVEL).float().mean() < (1e-3 if group.solarize else 1e-9)


def test_a_view_whose_colours_stay_is_the_exact_one_and_costs_nothing(monkeypatch):
    recolor, worked = matrix.recolor, []

    def watched(view, maps, rows):
        worked.extend(rows.tolist())
        return recolor(view, maps, rows)

    monkeypatch.setattr(matrix, "recolor", watched)
    monkeypatch.setattr("clctl.views.apply._chunk", lambda images, size: 7)
    group = BUSY.model_copy(update={"count": 1, "jitter": Jitter(p=0.5)})
    source = images(60, 16, 16)
    exact, ours = both(source, group)
    drawn = draw(group, source.sizes, generator("step"))
    moved = matrix.moves(drawn)
    assert 20 < moved.sum() < 50
    assert sorted(worked) == moved.nonzero()[:, 0].tolist()
    assert torch.equal(ours[~moved], exact[~moved])
    monkeypatch.setattr(matrix, "maps", None)  # not asked for where no view needs it
    exact, ours = both(source, ViewGroup(crop=Crop(), blur=Blur()))
    assert torch.equal(ours, exact)


@pytest.mark.parametrize("group", [BUSY, SOLAR])
def test_a_view_does_not_depend_on_how_a_batch_is_split(group):
    source = images(24, 20, 14)
    group = group.model_copy(update={"jitter": Jitter()})
    whole = make(source, policy(group), generator("step"), CPU).views
    parts = []
    for rows in (slice(0, 1), slice(1, 13), slice(13, 24)):
        mine = source.take(torch.arange(24)[rows])
        part = rows, source.sizes
        parts.append(make(mine, policy(group), generator("step"), CPU, part).views)
    for view, *split in zip(whole, *parts, strict=True):
        apart = (torch.cat(split) - view).abs()
        assert (apart > 1e-5).float().mean() < (1e-3 if group.solarize else 1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_made_on_the_device_of_the_pictures(channels):
    """A device that holds no numbers: nothing is asked of it."""
    device = torch.device("meta")
    source = images(12, 16, 16, channels)
    group = BUSY.model_copy(update={"jitter": Jitter()})
    for view in make(source, policy(group, SOLAR), generator("meta"), device).views:
        assert view.device == device
        assert (view.shape, view.dtype) == ((12, 3, 16, 16), torch.float32)
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_the_key_in_a_recipe():
    path = packaged()["simclr"]
    parts = [
        weights_part(read(path, given), "f", None)
        for given in ([], ["views.color=exact"], ["views.color=matrix"])
    ]
    assert digest(parts[0]) == digest(parts[1]) != digest(parts[2])
    assert changes(parts[0], parts[2]) == [("views.color", "absent", '"matrix"')]
    with pytest.raises(Problem, match=r"exact.*matrix") as error:
        read(path, ["views.color=matrx"])
    assert error.value.exit == Exit.RECIPE
