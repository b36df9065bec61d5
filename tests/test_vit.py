"""Vision transformers beside timm's, DINO's way with other sizes, and what they ask of views."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clctl.console import Problem
from clctl.encoders._vit import Attention, ViT
from clctl.recipe.plugins import config
from clctl.recipe.read import find, read
from clctl.rng import generator, seeded

SIZES = {"vit_tiny": (192, 3), "vit_small": (384, 6), "vit_base": (768, 12)}


def build(name: str = "vit_tiny", size: int = 32, **settings) -> ViT:
    with seeded("vit", name):
        return config("clctl.encoders", name)(**{"patch": 8, **settings}).build(size)


def noise(n: int, *side: int) -> Tensor:
    return torch.randn(n, 3, side[0], side[-1], generator=generator("vit", *side))


def weighed(features: Tensor) -> Tensor:
    """A sum with weights, since a layer norm fixes the plain one."""
    return (features * torch.randn(features.shape, generator=generator("vit", "weight"))).sum()


def timms(name: str, **settings) -> nn.Module:
    import timm

    return timm.create_model(f"{name}_patch16_224", num_classes=0, **settings).eval()


@pytest.mark.parametrize("name", SIZES)
def test_keys_and_output_are_timms(name):
    ours, theirs = build(name, 224, patch=16).eval(), timms(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert (ours.width, ours.blocks[0].attn.qkv.out_features) == (SIZES[name][0], 3 * ours.width)
    assert ours(x[:1]).shape == (1, ours.width)


@pytest.mark.parametrize(("pool", "theirs"), [("cls", "token"), ("mean", "avg")])
def test_another_size_and_either_pool_are_timms_too(pool, theirs):
    ours = build(size=64, pool=pool).eval()
    model = timms("vit_tiny", img_size=64, patch_size=8, global_pool=theirs, fc_norm=False)
    model.load_state_dict(ours.state_dict())
    x = noise(3, 64)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
        last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours(last), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(last).float(), expected, atol=0.1, rtol=0.1)


def test_weights_are_drawn_as_dino_draws():
    encoder = build("vit_small", 64)
    for key, p in encoder.named_parameters():
        if "norm" in key:
            assert p.unique().item() == (1 if key.endswith("weight") else 0)
        elif key.endswith("bias") and "patch_embed" not in key:
            assert not p.any()
        elif "patch_embed" not in key:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), key
    bound = (3 * 8 * 8) ** -0.5  # torch's for a convolution
    weight = encoder.patch_embed["proj"].weight
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_parameter_gets_a_gradient_unless_it_is_frozen(pool):
    encoder = build(pool=pool, frozen_patch=True, drop_path=0.1)
    weighed(encoder(noise(4, 32))).backward()
    frozen = [key for key, p in encoder.named_parameters() if not p.requires_grad]
    assert frozen == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    for key, p in encoder.named_parameters():
        if p.requires_grad:
            assert p.grad is not None
            assert p.grad.abs().max() > 1e-4, key
    assert all(p.requires_grad for p in build().parameters())


@pytest.mark.parametrize("side", [(16, 16), (48, 64), (40, 24)])
def test_positions_of_other_sizes_are_interpolated(side):
    encoder = build(size=32).double().eval()
    start, grid = encoder.pos_embed[:, :1], encoder.pos_embed[:, 1:]
    maps = grid.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    shape = (side[0] // 8, side[1] // 8)
    # As DINO does, but for its scale of (n + 0.1) / 4.
    wanted = F.interpolate(maps, size=shape, mode="bicubic", align_corners=False)
    wanted = torch.cat([start, wanted.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(encoder._positions(*shape), wanted, rtol=1e-12, atol=1e-14)
    x = noise(2, *side).double()
    patches = encoder.patch_embed["proj"](x).flatten(2).transpose(1, 2)
    tokens = torch.cat([encoder.cls_token.expand(2, -1, -1), patches], dim=1)
    torch.testing.assert_close(encoder._embedded(x), tokens + wanted)
    weighed(encoder(x)).backward()
    assert encoder.pos_embed.grad is not None
    assert encoder.pos_embed.grad.abs().sum(dim=-1).min() > 0
    assert not list(encoder.buffers())


def test_positions_are_exact_under_autocast():
    encoder = build(size=32)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder._positions(3, 5)
    assert found.dtype == torch.float32
    assert torch.equal(found, encoder._positions(3, 5))


def test_attention_maps_are_the_weights_that_attention_uses():
    encoder = build("vit_small", 32).double().eval()
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    for i, block in enumerate(encoder.blocks):

        def keep(module: nn.Module, args: tuple[Tensor], out: Tensor, i: int = i) -> None:
            seen[i] = (args[0], out)

        block.attn.register_forward_hook(keep)
    x = noise(2, 32).double()
    encoder(x)
    for i in (0, 5, -1):
        maps = encoder.attention_maps(x, i)
        assert maps.shape == (2, 6, 17, 17)
        torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 6, 17).double())
        given, out = seen[i % 12]
        attention = encoder.blocks[i].attn
        assert isinstance(attention, Attention)
        value = attention._split(given)[2]
        mixed = (maps @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.proj(mixed), out, rtol=1e-9, atol=1e-12)
    assert torch.equal(encoder.attention_maps(x), encoder.attention_maps(x, 11))
    with pytest.raises(IndexError):
        encoder.attention_maps(x, 12)


def test_drop_path_grows_with_depth_and_works_in_training_only():
    encoder = build(drop_path=0.22)
    rates = [block.drop_path.p for block in encoder.blocks]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
    x = noise(2, 32)

    def once(seed: int) -> Tensor:
        with seeded("drop", seed), torch.no_grad():
            return encoder(x)

    assert torch.equal(once(0), once(0))
    assert not torch.equal(once(0), once(1))
    encoder.eval()
    assert torch.equal(once(0), once(1))
    with torch.no_grad():
        assert torch.equal(build()(x), once(0))


def test_sizes_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(ValueError, match="30 pixels cannot be cut into patches of 8"):
        build(size=30)
    with pytest.raises(ValueError, match="32 x 36 pixels cannot be cut into patches of 8"):
        build()(noise(1, 32, 36))


def conflicts(*overrides: str) -> list[Any]:
    with pytest.raises(Problem) as caught:
        read(find("simclr"), ["encoder={name: vit_tiny}", *overrides])
    return [caught.value, *caught.value.others]


def test_views_that_do_not_fit_the_patches_are_told_with_those_that_do():
    read(find("simclr"), ["encoder={name: vit_tiny}"])  # 16 pixels, patches of 16
    (one,) = conflicts("views.size=40")
    assert (one.file, one.code) == ("--set views.size=40", "recipe.conflict")
    assert one.message == "views of 40 pixels cannot be cut into patches of 16"
    assert one.suggestion == "views of 32 or 48 pixels can, or patches of 10 or 20"
    (one,) = conflicts("encoder.patch=5")
    assert one.file == "--set encoder.patch=5"
    assert one.suggestion == "views of 15 or 20 pixels can, or patches of 4 or 8"
    (one,) = conflicts("encoder.patch=32")
    assert one.suggestion == "views of 32 pixels can, or patches of 16"
    (one,) = conflicts("encoder.patch=8", "views.groups.0.size=12")
    assert one.file == "--set views.groups.0.size=12"
    assert one.message == "views of 12 pixels cannot be cut into patches of 8"
    both = conflicts("views.size=1000000007", "views.groups.0.size=12")
    assert {p.file for p in both} == {
        "--set views.size=1000000007",
        "--set views.groups.0.size=12",
    }


def test_facts():
    chosen = config("clctl.encoders", "vit_small")(patch=8, pool="mean")
    assert chosen.facts(64) == {"patch": 8, "pool": "mean", "tokens": 65}
    assert chosen.build(64).pos_embed.shape == (1, 65, 384)
