"""The probe of the papers: a grid of rates in one pass against one SGD run for each."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from clctl.evaluate.sgd_probe import RATES, Graded, sgd
from clctl.rng import generator

CLASSES, WIDTH, SIZES, EPOCHS = 4, 6, (16, 16, 5), 3
GRID = (0.01, 0.1, 1.0, 10.0)


def features(
    key: int | str, count: int, spread: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds around a centre for each class."""
    centres = torch.randn(CLASSES, WIDTH, generator=generator("centres"), dtype=torch.float64)
    draw = generator("features", key)
    y = torch.randint(CLASSES, (count,), generator=draw)
    noise = torch.randn(count, WIDTH, generator=draw, dtype=torch.float64)
    return (centres[y] + spread * noise).to(dtype), y


def epoch_of(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    x, y = features(epoch, sum(SIZES))
    return zip(x.split(SIZES), y.split(SIZES), strict=True)


def easy(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """float32, and so far apart that every rate gets all right."""
    yield features(epoch, 32, 0.01, torch.float32)


HELD, TEST = features("held", 200), features("test", 30)[0]
EASY_HELD = features("held", 50, 0.01, torch.float32)
EASY_TEST, EASY_LABELS = features("test", 30, 0.01, torch.float32)


def probe(held: tuple[torch.Tensor, torch.Tensor] = HELD, **changes) -> Graded:
    settings = {"classes": CLASSES, "batch": 16, "epochs": EPOCHS, "rates": GRID, **changes}
    return sgd(epoch_of, held, TEST, **settings)


def alone(rate: float, seed: int = 0, batch: int = 16) -> nn.Linear:
    """One rate in a run of its own, by torch's optimizer."""
    layer = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
    with torch.no_grad():
        fresh = torch.randn(CLASSES, WIDTH, generator=generator(seed, "sgd probe"))
        layer.weight.copy_(0.01 * fresh)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = rate * batch / 256 * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        for x, y in epoch_of(epoch):
            optimizer.zero_grad()
            F.cross_entropy(layer(x), y).backward()
            optimizer.step()
    return layer


@torch.no_grad()
def chances(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer(x).softmax(dim=1)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_grid_is_one_sgd_run_for_each_rate(seed):
    layers = {rate: alone(rate, seed) for rate in GRID}
    answers = {rate: chances(layer, HELD[0]).argmax(dim=1) for rate, layer in layers.items()}
    for rate, layer in layers.items():
        # With its own answers as labels each of them is chosen once.
        found = probe((HELD[0], answers[rate]), seed=seed)
        shares = {r: (answers[r] == answers[rate]).double().mean().item() for r in GRID}
        assert list(found.held_out) == list(GRID)
        assert found.held_out == pytest.approx(shares)
        assert sum(share == 1.0 for share in shares.values()) == 1
        assert found.rate == rate
        assert found.scores.dtype == torch.float32
        torch.testing.assert_close(found.scores, chances(layer, TEST).float())


def test_the_best_on_held_out_samples_is_chosen():
    found = probe()
    shares = {
        rate: (chances(alone(rate), HELD[0]).argmax(dim=1) == HELD[1]).double().mean().item()
        for rate in GRID
    }
    assert found.held_out == pytest.approx(shares)
    assert shares[found.rate] == max(shares.values()) > min(shares.values())


def test_rates_are_in_proportion_to_the_batch():
    one = probe(batch=64, rates=(0.2,))
    other = probe(batch=256, rates=(0.05,))
    assert torch.equal(one.scores, other.scores)
    assert (one.rate, other.rate) == (0.2, 0.05)
    torch.testing.assert_close(one.scores, chances(alone(0.2, batch=64), TEST).float())


def test_ties_go_to_the_lowest_rate_in_whatever_order_they_come():
    for rates in ((0.5, 0.3, 0.4), (0.3, 0.4, 0.5), (0.4, 0.3, 0.5, 0.3)):
        found = sgd(easy, EASY_HELD, EASY_TEST, classes=CLASSES, batch=256, epochs=9, rates=rates)
        assert found.held_out == {0.3: 1.0, 0.4: 1.0, 0.5: 1.0}
        assert found.rate == 0.3
        assert torch.equal(found.scores.argmax(dim=1), EASY_LABELS)


def test_a_rate_that_diverges_is_left_out_and_harms_no_other():
    settings = {"classes": CLASSES, "batch": 256, "epochs": 9}
    harmless = sgd(easy, EASY_HELD, EASY_TEST, rates=(0.3, 0.4), **settings)
    found = sgd(easy, EASY_HELD, EASY_TEST, rates=(0.3, 1e38), **settings)
    assert found.held_out == {0.3: 1.0}
    assert torch.equal(found.scores, harmless.scores)
    with pytest.raises(ValueError, match=r"all learning rates diverged, 1e\+38 and above"):
        sgd(easy, EASY_HELD, EASY_TEST, rates=(1e38, 3e38), **settings)


def test_same_seed_same_bytes():
    torch.manual_seed(1)
    one = probe(seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(one.scores, probe(seed=3).scores)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one.scores, probe(seed=4).scores)


def test_classes_that_nobody_saw_get_little():
    wide = sgd(epoch_of, HELD, TEST, classes=CLASSES + 2, batch=16, epochs=40, rates=(1.0,))
    assert wide.scores.shape == (30, CLASSES + 2)
    torch.testing.assert_close(wide.scores.sum(dim=1), torch.ones(30))
    assert wide.scores[:, CLASSES:].max() < 0.1


def test_in_the_long_run_it_is_logistic_regression():
    x, y = features("fixed", 400, 1.5)
    model = LogisticRegression(C=1e6, max_iter=1000).fit(x.numpy(), y.numpy())
    found = sgd(
        lambda epoch: iter([(x, y)]),
        HELD,
        TEST,
        classes=CLASSES,
        batch=256,
        epochs=1500,
        rates=(0.5,),
    )
    expected = model.predict_proba(TEST.numpy())
    np.testing.assert_allclose(found.scores.numpy(), expected, atol=2e-3)


def test_the_packaged_grid_rises_over_four_decades():
    assert list(RATES) == sorted(set(RATES))
    assert len(RATES) == 10
    assert RATES[-1] / RATES[0] > 1e4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": ()}, "must be positive"),
        ({"rates": (0.0, 1.0)}, "must be positive"),
        ({"rates": (-1.0,)}, "must be positive"),
        ({"rates": (1.0, math.inf)}, "must be positive"),
        ({"rates": (math.nan,)}, "must be positive"),
        ({"epochs": 0}, "no batch to train on"),
        ({"held": (HELD[0][:0], HELD[1][:0])}, "no sample is held out"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        probe(**changes)
