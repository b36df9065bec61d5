"""What is drawn, against torchvision's own samplers."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare, kstest
from torchvision.transforms import v2

from clctl.recipe.policy import Affine, Blur, Crop, Jitter, Solarize, ViewGroup
from clctl.rng import generator, seeded
from clctl.views.draw import central, describe, draw

N = 3000
LIKELY = 1e-3  # the streams are fixed, so a test that passes once passes always
FULL = ViewGroup(
    crop=Crop(),
    affine=Affine(p=0.7, shift=0.2, rotate=30, scale=(0.8, 1.1)),
    hflip=0.5,
    vflip=0.1,
    jitter=Jitter(),
    grayscale=0.2,
    blur=Blur(),
    solarize=Solarize(),
)


def drawn(group, height=1000, width=1000, n=N, key="draw"):
    return draw(group, torch.tensor([[height, width]]).repeat(n, 1), generator(key))


def oracle_boxes(crop, height, width, n=N):
    sampler = v2.RandomResizedCrop(8, scale=crop.scale, ratio=crop.ratio)
    image = torch.zeros(1, height, width)
    with seeded("oracle"):
        found = [sampler.make_params([image]) for _ in range(n)]
    return torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in found])


@pytest.mark.parametrize(
    ("height", "width"), [(1000, 1000), (400, 1000), (1000, 300), (30, 300), (300, 30)]
)
def test_boxes_are_distributed_as_torchvisions(height, width):
    ours = drawn(FULL, height, width).box
    theirs = oracle_boxes(FULL.crop, height, width)
    for of in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0] / (height - box[:, 2]).clamp(min=1),
        lambda box: box[:, 1] / (width - box[:, 3]).clamp(min=1),
    ):
        assert kstest(of(ours).numpy(), of(theirs).numpy()).pvalue > LIKELY
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] > 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor([height, width])).all()


def test_area_and_log_ratio_are_uniform():
    # No try fails: half of a square at these ratios is at most as high as the square.
    box = drawn(ViewGroup(crop=Crop(scale=(0.1, 0.5), ratio=(0.5, 0.8)))).box.double()
    area = box[:, 2] * box[:, 3] / 1e6
    assert kstest(area.numpy(), "uniform", (0.1, 0.4)).pvalue > LIKELY
    ratio = (box[:, 3] / box[:, 2]).log()
    assert kstest(ratio.numpy(), "uniform", (math.log(0.5), math.log(1.6))).pvalue > LIKELY


@pytest.mark.parametrize(
    ("height", "width"), [(10, 200), (200, 10), (7, 7), (1, 9), (9, 1), (1, 1)]
)
def test_the_fallback_is_the_central_box(height, width):
    crop = Crop(scale=(1.0, 1.0), ratio=(0.75, 4 / 3))
    group = ViewGroup(crop=crop.model_copy(update={"ratio": (0.75, 0.75 + 1e-9)}))
    if height == width:  # a whole square never has the ratio 3/4: every try fails
        expected = oracle_boxes(group.crop, height, width, n=1)
    else:
        group = ViewGroup(crop=crop)
        expected = oracle_boxes(crop, height, width, n=1)
    assert torch.equal(drawn(group, height, width, n=50).box, expected.expand(50, 4))


def test_jitter_is_distributed_as_torchvisions():
    ours = drawn(ViewGroup(jitter=Jitter(p=1.0, brightness=0.4, contrast=1.5, hue=0.2)))
    sampler = v2.ColorJitter(0.4, 1.5, 0.4, 0.2)
    with seeded("oracle"):
        found = [sampler.make_params([]) for _ in range(N)]
    for i, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = [p[f"{name}_factor"] for p in found]
        assert kstest(ours.factors[:, i].numpy(), theirs).pvalue > LIKELY
    places = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    counts = torch.tensor([places[tuple(order)] for order in ours.order.tolist()]).bincount()
    assert len(counts) == 24
    assert chisquare(counts.numpy()).pvalue > LIKELY


def test_affine_and_blur_are_uniform_where_they_happen():
    found = drawn(FULL)
    still = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert found.affine is not None
    moved = found.affine[(found.affine != still).any(1)]
    for column, low, high in ((0, -30, 30), (1, -0.2, 0.2), (2, -0.2, 0.2), (3, 0.8, 1.1)):
        values = moved[:, column].double().numpy()
        assert kstest(values, "uniform", (low, high - low)).pvalue > LIKELY
    sigma = found.sigma[found.sigma > 0].double()
    assert kstest(sigma.numpy(), "uniform", (0.1, 1.9)).pvalue > LIKELY


def test_shares_of_what_happens():
    found = drawn(FULL)
    still = torch.tensor([1.0, 1.0, 1.0, 0.0])
    for happened, p in (
        ((found.affine != torch.tensor([0.0, 0.0, 0.0, 1.0])).any(1), 0.7),
        (found.flips[:, 0], 0.5),
        (found.flips[:, 1], 0.1),
        ((found.factors != still).any(1), 0.8),
        (found.grayscale, 0.2),
        (found.sigma > 0, 0.5),
        (found.solarize, 0.2),
    ):
        assert abs(happened.double().mean() - p) < 4 * math.sqrt(p * (1 - p) / N)
    untouched = found.order[(found.factors == still).all(1)]
    assert torch.equal(untouched, torch.arange(4).expand_as(untouched))


def test_p_of_one_and_zero_are_certain():
    sure = drawn(ViewGroup(hflip=1.0, vflip=0.0, grayscale=1.0, blur=Blur(p=1.0)))
    assert sure.flips[:, 0].all()
    assert not sure.flips[:, 1].any()
    assert sure.grayscale.all()
    assert (sure.sigma >= 0.1).all()


def test_without_operations_nothing_happens():
    found = draw(ViewGroup(), torch.tensor([[5, 9], [3, 1]]), generator("plain"))
    assert found.box.tolist() == [[0, 0, 5, 9], [0, 0, 3, 1]]
    assert found.affine is None
    assert describe(found, 0) == ["crop 9x5 at 0,0"]


def test_a_row_depends_on_nothing_but_the_stream():
    """Neither on the images, nor on how many there are, nor on the other operations."""
    whole = drawn(FULL, n=20)
    for part in (drawn(FULL, n=7), drawn(FULL, 3, 900, n=20)):
        for name in ("flips", "affine", "factors", "order", "grayscale", "sigma", "solarize"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[: len(part)])
    assert torch.equal(drawn(FULL, n=7).box, whole.box[:7])
    less = drawn(ViewGroup(crop=FULL.crop, grayscale=0.2), n=20)
    assert torch.equal(less.box, whole.box)
    assert torch.equal(less.grayscale, whole.grayscale)
    # The stream stands at the same place afterwards.
    one, two = generator("draw"), generator("draw")
    draw(FULL, torch.tensor([[3, 900]]).repeat(20, 1), one)
    draw(ViewGroup(), torch.tensor([[50, 50]]).repeat(20, 1), two)
    assert torch.equal(one.get_state(), two.get_state())


def test_rows():
    whole = drawn(FULL, n=20)
    for rows in (slice(3, 9), torch.tensor([3, 4, 5, 6, 7, 8])):
        part = whole.rows(rows)
        assert len(part) == 6
        for name, value in vars(part).items():
            assert torch.equal(value, getattr(whole, name)[3:9])


@pytest.mark.parametrize(
    ("height", "width"), [(10, 13), (13, 10), (11, 8), (8, 11), (1, 4), (5, 5)]
)
def test_central_is_torchvisions_center_crop(height, width):
    image = torch.arange(height * width).view(1, height, width)
    top, left, high, wide = central(torch.tensor([[height, width]]))[0].tolist()
    part = image[:, top : top + high, left : left + wide]
    assert torch.equal(part, v2.functional.center_crop(image, [min(height, width)]))


def test_describe_says_what_happens_in_order():
    found = drawn(FULL, n=1)
    for name, value in (
        ("box", [1, 2, 30, 40]),
        ("affine", [12.0, 0.1, -0.05, 0.9]),
        ("flips", [True, True]),
        ("factors", [1.2, 1.0, 0.6, -0.05]),
        ("order", [3, 2, 1, 0]),
        ("grayscale", True),
        ("sigma", 1.25),
        ("solarize", True),
    ):
        getattr(found, name)[0] = torch.tensor(value)
    assert describe(found, 0) == [
        "crop 40x30 at 2,1",
        "turn +12°",
        "shift +10% right, -5% down",
        "scale 0.90",
        "flip left-right",
        "flip up-down",
        "hue -18°",
        "saturation 0.60",
        "brightness 1.20",
        "grayscale",
        "blur 1.25 px",
        "solarize",
    ]
