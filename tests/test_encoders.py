"""Backbones beside torchvision's own."""

import pytest
import torch
import torchvision
from torch import nn

from clctl.encoders._norm import layer
from clctl.method import Encoder
from clctl.recipe.plugins import config, known
from clctl.rng import generator, seeded

WIDTHS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


def build(encoder: str, size: int, **settings) -> Encoder:
    with seeded("encoders", encoder):
        return config("clctl.encoders", encoder)(**settings).build(size)


def without_classifier(name: str) -> nn.Module:
    with seeded("encoders", "torchvision"):
        model = getattr(torchvision.models, name)()
    model.fc = nn.Identity()
    return model


def noise(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=generator("encoders", size))


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", WIDTHS)
def test_the_imagenet_stem_is_torchvisions_network(name):
    ours, theirs = build(name, 224, stem="imagenet"), without_classifier(name)
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 64)
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        with torch.no_grad():
            assert torch.equal(ours(x), theirs(x))
    assert ours.width == WIDTHS[name]
    assert ours(x).shape == (2, WIDTHS[name])


@pytest.mark.parametrize("name", WIDTHS)
def test_the_small_stem_differs_in_its_first_layer_only(name):
    ours, theirs = shapes(build(name, 32, stem="small")), shapes(without_classifier(name))
    assert ours.pop("conv1.weight") == (64, 3, 3, 3)
    assert theirs.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours == theirs


@pytest.mark.parametrize(("stem", "first", "last"), [("small", 32, 4), ("imagenet", 8, 1)])
def test_maps_of_a_picture_of_32_pixels(stem, first, last):
    encoder = build("resnet18", 32, stem=stem)
    sizes = []
    for stage in (encoder.layer1, encoder.layer4):
        stage.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[2:])))
    encoder.eval()(noise(1, 32))
    assert sizes == [(first, first), (last, last)]


def test_the_small_stem_is_drawn_as_torchvision_draws():
    weight = build("resnet18", 32, stem="small").conv1.weight
    # Kaiming normal over the outputs: variance 2 / (64 * 3 * 3).
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert abs(weight.mean().item()) < 0.005


@pytest.mark.parametrize("size", [16, 32, 48, 49, 64, 224])
def test_auto_takes_the_small_stem_to_48_pixels(size):
    chosen = config("clctl.encoders", "resnet18")()
    expected = "small" if size <= 48 else "imagenet"
    assert chosen.facts(size) == {"stem": expected, "norm": "batch"}
    kernel = chosen.build(size).conv1.kernel_size
    assert kernel == ((3, 3) if expected == "small" else (7, 7))
    for stem in ("small", "imagenet"):
        assert config("clctl.encoders", "resnet18")(stem=stem).facts(size)["stem"] == stem


def multiply_adds(encoder: nn.Module, size: int) -> int:
    counts = []

    def count(module: nn.Conv2d, args, out) -> None:
        per_output = module.in_channels // module.groups * module.kernel_size[0] ** 2
        counts.append(out[0].numel() * per_output)

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    encoder.eval()(noise(1, size))
    return sum(counts)


def test_the_small_encoder_needs_four_million_multiply_adds():
    # The count itself against the published one: 1.8 G for ResNet-18 at 224 pixels.
    assert multiply_adds(build("resnet18", 224), 224) == pytest.approx(1.81e9, rel=0.01)
    assert 3.5e6 < multiply_adds(build("resnet_small", 32), 32) < 4.5e6


@pytest.mark.parametrize("width", [8, 16])
def test_the_small_encoder_gives_eight_times_its_width(width):
    encoder = build("resnet_small", 32, width=width)
    assert encoder.width == 8 * width
    for size in (9, 16, 32, 64):
        assert encoder(noise(2, size)).shape == (2, 8 * width)
    last = []
    encoder.layer4.register_forward_hook(lambda module, args, out: last.append(out))
    x = noise(2, 32)
    torch.testing.assert_close(encoder(x), last[0].mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 0), ("resnet50", 0), ("resnet_small", 9), ("resnet_small", 10)]
)
def test_group_norm_looks_at_one_image_only(name, width):
    settings = {"width": width} if width else {}
    encoder = build(name, 32, norm="group", **settings).train()
    assert config("clctl.encoders", name)(norm="group").facts(32)["norm"] == "group"
    norms = [m for m in encoder.modules() if isinstance(m, nn.GroupNorm)]
    assert not [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    plain = build(name, 32, **settings)
    assert len(norms) == sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    if not width:
        assert {m.num_channels // m.num_groups for m in norms} == {16}
    x = noise(3, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[:1]), encoder(x)[:1], rtol=1e-4, atol=1e-5)
        assert (encoder(x) - plain.train()(x)).abs().max() > 1e-2


def test_groups_of_channels_are_equal_and_of_sixteen_or_more():
    made = layer("group")
    for channels in (*range(1, 200), 512, 2048):
        norm = made(channels)
        assert isinstance(norm, nn.GroupNorm)
        each = channels // norm.num_groups
        assert each * norm.num_groups == norm.num_channels == channels
        assert each >= min(16, channels)
        if channels % 16 == 0:
            assert each == 16
    assert [made(n).num_groups for n in (24, 31, 40, 74)] == [1, 1, 2, 2]
    assert layer("batch") is nn.BatchNorm2d


NAMES = {name: name for name in known("clctl.encoders")} | {"timm": "timm/resnet10t"}


@pytest.mark.parametrize("name", NAMES.values())
def test_every_encoder_is_drawn_from_the_seed_and_takes_channels_last(name):
    settings = {"name": name} if "/" in name else {}
    encoder, again = build(name, 32, **settings), build(name, 32, **settings)
    assert config("clctl.encoders", name)(**settings).name == name
    states = encoder.state_dict(), again.state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    x = noise(2, 32)
    encoder.eval()
    with torch.no_grad():
        plain = encoder(x)
        last = encoder(x.contiguous(memory_format=torch.channels_last))
    assert plain.shape == (2, encoder.width)
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-4)
