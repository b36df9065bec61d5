"""Features of a frozen encoder, calibrated statistics and readings of collapse."""

import math

import pytest
import torch
from torch import nn

from clctl.evaluate.diagnostics import feature_spread, feature_std, rank_me
from clctl.evaluate.features import calibrate, extract, frozen, pixels
from clctl.images import Images
from clctl.rng import generator


class Probe(nn.Module):
    """Two norms, a flag per module, and buffers that can be told to change."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
        self.between = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        return self.second(self.between(self.first(x))).mean(dim=(2, 3))


def pictures(n=10):
    canvas = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator("canvas"))
    return Images(canvas, torch.full((n, 2), 8))


def unit(images):
    return images.canvas.float() / 255


def test_extract_gives_features_in_order_and_leaves_the_encoder_alone():
    encoder = Probe()
    encoder.second.eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    flags = [module.training for module in encoder.modules()]
    ticks = []
    found = extract(encoder, pictures(), unit, torch.device("cpu"), batch=4, tick=ticks.append)
    assert ticks == [4, 8, 10]
    assert [module.training for module in encoder.modules()] == flags
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    encoder.eval()
    expected = torch.cat([encoder(unit(pictures())[i : i + 1]) for i in range(10)])
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_pixels_are_the_prepared_pictures():
    assert torch.equal(pixels(pictures(), unit, batch=4), unit(pictures()).flatten(1))


def _moves_statistics(encoder):
    encoder.first.train()
    encoder(unit(pictures()))


def _moves_a_weight(encoder):
    encoder.first.weight.add_(1)


def _replaces_a_buffer(encoder):
    encoder.count = encoder.count + 1


@pytest.mark.parametrize("change", [_moves_statistics, _moves_a_weight, _replaces_a_buffer])
def test_frozen_tells_when_the_encoder_was_changed(change):
    encoder = Probe()
    with pytest.raises(AssertionError, match="changed"), frozen(encoder):
        change(encoder)
    assert all(module.training for module in encoder.modules())


def test_frozen_restores_flags_when_the_block_fails():
    encoder = Probe()

    def fail():
        with frozen(encoder):
            assert not any(module.training for module in encoder.modules())
            assert not torch.is_grad_enabled()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert all(module.training for module in encoder.modules())
    assert torch.is_grad_enabled()


def test_calibrate_sets_statistics_to_the_mean_over_batches():
    encoder = Probe()
    batches = [
        torch.randn(6, 3, 8, 8, generator=generator("calibrate", i)) * (i + 1) for i in range(3)
    ]
    weights = [p.detach().clone() for p in encoder.parameters()]
    calibrate(encoder, batches)
    means, spreads, first, second = [], [], [], []
    for x in batches:
        means.append(x.mean(dim=(0, 2, 3)))
        spreads.append(x.var(dim=(0, 2, 3)))
        deep = nn.functional.batch_norm(
            x, None, None, encoder.first.weight, encoder.first.bias, True
        )
        deep = encoder.between[0](deep).detach()  # dropout stays off
        first.append(deep.mean(dim=(0, 2, 3)))
        second.append(deep.var(dim=(0, 2, 3)))
    for norm, mean, spread in ((encoder.first, means, spreads), (encoder.second, first, second)):
        torch.testing.assert_close(norm.running_mean, torch.stack(mean).mean(dim=0))
        torch.testing.assert_close(norm.running_var, torch.stack(spread).mean(dim=0))
        assert norm.momentum == 0.1
    assert all(torch.equal(p, w) for p, w in zip(encoder.parameters(), weights, strict=True))
    assert not any(module.training for module in encoder.modules())


def spectrum(*values, n=40):
    """A matrix [n, len(values)] with these singular values."""
    d = len(values)
    left = torch.linalg.qr(torch.randn(n, d, generator=generator("left"), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(d, d, generator=generator("right"), dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ((2.0,) * 6, 6),
        ((1.0, 0.0, 0.0), 1),
        ((3.0, 3.0, 0.0, 0.0), 2),
        ((3.0, 1.0), 4 / 3**0.75),
        ((0.0, 0.0), 1),
    ],
)
def test_rank_me_of_known_spectra(values, rank):
    assert rank_me(spectrum(*values)) == pytest.approx(rank, abs=1e-4)
    assert rank_me(1000 * spectrum(*values).float()) == pytest.approx(rank, abs=1e-4)


def test_feature_std_of_isotropic_and_collapsed_features():
    z = torch.randn(4000, 64, generator=generator("isotropic"))
    sizes = torch.rand(4000, 1, generator=generator("sizes")) + 0.1
    assert feature_std(sizes * z) == pytest.approx(1 / 8, rel=0.01)
    assert feature_spread(z) == pytest.approx(1, rel=0.01)
    assert feature_std(torch.ones(10, 64) * sizes[:10]) == pytest.approx(0, abs=1e-7)
    # Two opposite directions: every coordinate is +-1/8.
    signs = torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    assert feature_std(signs.expand(100, 64)) == pytest.approx(math.sqrt(100 / 99) / 8)
