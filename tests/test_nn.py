"""Heads, teachers and the gauge of collapse."""

import math

import pytest
import torch
from torch import nn

from clctl.commands import _launch, _setup
from clctl.evaluate.finetune import Tuning, finetune
from clctl.images import Images, Split
from clctl.nn.mlp import mlp
from clctl.nn.momentum import cosine, follow, frozen_copy
from clctl.nn.narrow import StridedConv2d, guard_strides
from clctl.nn.spread import spread
from clctl.recipe.read import find, read
from clctl.rng import generator, seeded


def test_mlp_has_norms_between_its_layers_and_no_bias_before_one():
    kinds = [type(layer) for layer in mlp(8, 16, 4)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    first, _, _, last = mlp(8, 16, 4)
    assert (first.in_features, first.out_features, first.bias) == (8, 16, None)
    assert (last.in_features, last.out_features) == (16, 4)
    assert last.bias is not None
    assert [type(layer) for layer in mlp(8, 4)] == [nn.Linear]


def test_mlp_may_end_in_a_norm_without_scale():
    *_, last, norm = mlp(8, 16, 4, last_norm=True)
    assert last.bias is None
    assert isinstance(norm, nn.BatchNorm1d)
    assert not list(norm.parameters())
    x = torch.randn(64, 8, generator=generator("mlp"))
    out = mlp(8, 16, 4, last_norm=True)(x)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)


def pair() -> tuple[nn.Module, list[nn.Module]]:
    with seeded("nn", "momentum"):
        online = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)]
        teacher = frozen_copy(nn.Sequential(*online))
        for p in teacher.parameters():
            nn.init.normal_(p)
    return teacher, online


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.99, 1.0])
def test_a_teacher_moves_by_its_share_of_the_gap(momentum):
    teacher, online = pair()
    old = [p.clone() for p in teacher.parameters()]
    teacher[0][1].running_mean.fill_(7)
    follow(teacher, online, torch.tensor(momentum))
    new = [p for module in online for p in module.parameters()]
    for p, was, source in zip(teacher.parameters(), old, new, strict=True):
        torch.testing.assert_close(p, momentum * was + (1 - momentum) * source.detach())
    assert teacher[0][1].running_mean.tolist() == [7] * 4
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_that_does_not_fit_its_source_is_refused():
    teacher, online = pair()
    with pytest.raises(ValueError, match="6 parameters, its source 4"):
        follow(teacher, online[:1], torch.tensor(0.5))


def test_a_frozen_copy_is_equal_and_apart():
    layer = nn.Linear(3, 2)
    copy = frozen_copy(layer)
    assert torch.equal(copy.weight, layer.weight)
    layer.weight.data.add_(1)
    assert not torch.equal(copy.weight, layer.weight)
    assert layer.weight.requires_grad
    assert not copy.weight.requires_grad


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_cosine_goes_from_start_to_end(fraction):
    expected = 1 - (1 - 0.9) * (math.cos(math.pi * fraction) + 1) / 2
    assert cosine(0.9, 1.0, torch.tensor(fraction)).item() == pytest.approx(expected, abs=1e-6)


def test_spread_is_one_on_the_sphere_and_zero_at_a_point():
    z = torch.randn(5000, 32, generator=generator("spread"), requires_grad=True)
    assert spread(z).item() == pytest.approx(1, rel=0.01)
    assert not spread(z).requires_grad
    assert spread(torch.rand(16, 1) + 0.1 * torch.ones(16, 32) * 10).item() < 0.05
    assert spread(torch.ones(16, 32)).item() == pytest.approx(0, abs=1e-6)
    half = z.detach().clone()
    half[:, 8:] = 0  # a quarter of the dimensions, each twice as wide
    assert spread(half).item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("side", "stride"), [(1, 2), (2, 3), (2, 2), (4, 2)])
def test_bf16_gradients_of_maps_narrower_than_the_stride_are_those_of_float32(side, stride):
    # Without the guard, a processor with avx512_bf16 leaves part of them unwritten.
    with seeded("narrow"):
        conv = nn.Conv2d(32, 64, 3, stride, 1)
        pictures = torch.randn(16, 32, side, side)
    guard_strides(conv)
    for _ in range(5):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(pictures)
        out.float().square().sum().backward()
        weight = conv.weight.detach().clone().requires_grad_()
        exact = nn.functional.conv2d(pictures, weight, conv.bias, stride, 1)
        (wanted,) = torch.autograd.grad(exact.square().sum(), weight)
        bound = 0.03 * wanted.abs().max().item()
        torch.testing.assert_close(conv.weight.grad, wanted, rtol=0, atol=bound)
        assert out.dtype == (torch.float32 if side < stride else torch.bfloat16)


def test_only_strided_convolutions_wider_than_a_pixel_are_guarded():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, 2))
    names = list(layers.state_dict())
    guard_strides(layers)
    assert [type(layer) is nn.Conv2d for layer in layers] == [False, True, True]
    assert list(layers.state_dict()) == names


def test_what_is_trained_on_a_processor_is_guarded():
    recipe, machine = read(find("simclr")), _setup.machine("cpu")
    images = Images(torch.zeros(64, 3, 16, 16, dtype=torch.uint8), torch.full((64, 2), 16))
    split = Split("train", images, None, [str(i) for i in range(64)])
    method, _, _ = _launch.parts(recipe, split, machine)
    batch = torch.rand(4, 3, 16, 16), torch.arange(4) % 2
    fresh = _setup.encoder(recipe)
    tuned = finetune(fresh, 2, lambda step: batch, 1, Tuning(), seed=0, device=machine.device)
    kinds = [{type(part) for part in each.modules()} for each in (method, tuned, fresh)]
    assert [StridedConv2d in found for found in kinds] == [True, True, False]
