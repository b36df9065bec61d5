"""Intervals and p-values: published values, scipy, loops, and how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from clctl.evaluate.intervals import (
    difference_over_seeds,
    mean_over_seeds,
    paired,
    wilson,
)

SETS = 2000  # of a simulation; a share of 0.95 is then known to 0.005


def images(both, only_a, only_b, neither):
    """Two bool arrays with so many images of each kind."""
    times = (both, only_a, only_b, neither)
    kinds = ((True, True, False, False), (True, False, True, False))
    return tuple(np.repeat(kind, times) for kind in kinds)


def shares(a, b, correlation):
    """Probability that both, only a, only b, neither is right, given accuracies."""
    both = min(a, b, a * b + correlation * math.sqrt(a * (1 - a) * b * (1 - b)))
    return both, a - both, b - both, max(0.0, 1 - a - b + both)


def simulate_paired(total, a, b, correlation, seed=0):
    """(share of intervals that hold b - a, share significant, share that disagrees)."""
    draws = np.random.default_rng(seed).multinomial(total, shares(a, b, correlation), SETS)
    draws, times = np.unique(draws[:, 1:3], axis=0, return_counts=True)
    seen = [paired(*images(0, x, y, total - x - y)) for x, y in draws]
    holds = [f.low - 1e-12 <= b - a <= f.high + 1e-12 for f in seen]
    apart = [f.significant != (f.low > 0 or f.high < 0) for f in seen]
    marks = np.array([holds, [f.significant for f in seen], apart])
    return tuple((marks * times).sum(axis=1) / SETS)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_intervals(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("share", "total"), [(0.9, 360), (0.5, 100), (0.97, 360)])
def test_wilson_covers_the_true_share(share, total):
    draws = np.random.default_rng(0).binomial(total, share, SETS)
    inside = [low <= share <= high for low, high in (wilson(int(right), total) for right in draws)]
    assert 0.93 <= np.mean(inside) <= 0.97


@pytest.mark.parametrize("total", [50, 360, 2000])
def test_wilson_covers_95_percent_on_average_over_true_shares(total):
    # Coverage swings with the share, so it is the mean over a grid that is held, computed exactly.
    ends = np.array([wilson(right, total) for right in range(total + 1)])
    grid = np.linspace(0.02, 0.98, 193)
    inside = (ends[:, :1] <= grid) & (grid <= ends[:, 1:])
    chances = stats.binom.pmf(np.arange(total + 1)[:, None], total, grid)
    covered = (chances * inside).sum(axis=0)
    assert covered.mean() == pytest.approx(0.95, abs=0.005)
    assert covered.min() > 0.90


def test_mean_over_seeds_is_students_t():
    values = [0.81, 0.83, 0.80, 0.845]
    mean, low, high = mean_over_seeds(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected), rel=1e-12)
    # Two values: the quantile of t with one degree of freedom is that of Cauchy, tan(0.475 pi).
    mean, low, high = mean_over_seeds([0.5, 0.7])
    assert (mean, high - mean) == pytest.approx((0.6, 0.1 * math.tan(0.475 * math.pi)))
    assert mean_over_seeds([0.25] * 3) == (0.25, 0.25, 0.25)


def test_difference_over_seeds_is_welchs_t():
    a, b = [0.80, 0.82, 0.79], [0.85, 0.81, 0.88, 0.90, 0.84]
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    found = difference_over_seeds(a, b)
    assert found == pytest.approx((np.mean(b) - np.mean(a), *expected), rel=1e-10)
    assert difference_over_seeds(b, a) == pytest.approx((-found[0], -found[2], -found[1]))
    assert difference_over_seeds([0.5, 0.5], [0.75, 0.75, 0.75]) == (0.25, 0.25, 0.25)
    # One side without spread leaves the other side's t interval.
    mean, low, high = mean_over_seeds(a)
    one_sided = difference_over_seeds([0.5, 0.5], a)
    assert one_sided == pytest.approx((mean - 0.5, low - 0.5, high - 0.5), rel=1e-9)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan], [0.5, math.inf]])
def test_seeds_that_have_no_spread_are_refused(values):
    with pytest.raises(ValueError, match=r"two runs|not finite"):
        mean_over_seeds(values)
    for sides in ((values, [0.5, 0.6]), ([0.5, 0.6], values)):
        with pytest.raises(ValueError, match=r"two runs|not finite"):
            difference_over_seeds(*sides)


@pytest.mark.parametrize(("few", "many"), [(2, 2), (3, 10), (5, 5)])
def test_intervals_over_seeds_cover(few, many):
    random = np.random.default_rng(0)
    a = random.normal(0.8, 0.01, (SETS, few)).tolist()
    b = random.normal(0.82, 0.03, (SETS, many)).tolist()
    means = np.array([mean_over_seeds(row) for row in b])
    assert 0.93 <= ((means[:, 1] <= 0.82) & (means[:, 2] >= 0.82)).mean() <= 0.97
    gaps = np.array([difference_over_seeds(x, y) for x, y in zip(a, b, strict=True)])
    covered = ((gaps[:, 1] <= 0.02) & (gaps[:, 2] >= 0.02)).mean()
    # Welch's t is approximate, and cautious with one degree of freedom a side.
    assert 0.93 <= covered <= (0.99 if few == 2 else 0.97)


def convolved(down, up, total):
    """Distribution of the sum of `total` draws from {-1, 0, 1}, by one loop over the draws."""
    mass = {0: 1.0}
    for _ in range(total):
        grown = dict.fromkeys(range(min(mass) - 1, max(mass) + 2), 0.0)
        for value, weight in mass.items():
            for step, share in ((-1, down), (0, 1 - down - up), (1, up)):
                grown[value + step] += weight * share
        mass = grown
    return mass


def middle_quantile(mass, level):
    """Where the mid-distribution, a line over the values that occur, reaches the level."""
    below, last = 0.0, None
    for value in sorted(value for value in mass if mass[value] > 1e-12):
        middle = below + mass[value] / 2
        if middle >= level:
            if last is None:
                return value
            return last[0] + (level - last[1]) / (middle - last[1]) * (value - last[0])
        below, last = below + mass[value], (value, middle)
    raise AssertionError


@pytest.mark.parametrize(
    ("both", "only_a", "only_b", "neither"),
    [(40, 0, 0, 10), (30, 3, 9, 8), (0, 60, 0, 0), (5, 20, 25, 0), (90, 1, 0, 29), (2, 1, 3, 0)],
)
def test_paired_equals_a_bootstrap_by_loops(both, only_a, only_b, neither):
    total = both + only_a + only_b + neither
    found = paired(*images(both, only_a, only_b, neither))
    mass = convolved((only_a + 1) / (total + 2), (only_b + 1) / (total + 2), total)
    ends = [middle_quantile(mass, level) / total for level in (0.025, 0.975)]
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-9)
    assert found.difference == pytest.approx((only_b - only_a) / total)


def test_paired_is_near_a_bootstrap_by_chance():
    a, b = images(600, 40, 70, 290)
    random = np.random.default_rng(0)
    gaps = np.append(b.astype(int) - a, [1, -1])
    drawn = gaps[random.integers(0, len(gaps), (20_000, len(a)))].mean(axis=1)
    found = paired(a, b)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=2e-3)
    # And near the bootstrap without the two added images, with so many that differ.
    plain = stats.norm.interval(0.95, 0.03, gaps[:-2].std() / math.sqrt(1000))
    assert (found.low, found.high) == pytest.approx(plain, abs=2e-3)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 5), (0, 6), (3, 11), (7, 7), (40, 62)])
def test_p_is_mcnemars_mid_p(only_a, only_b):
    p = paired(*images(50, only_a, only_b, 50)).p_value
    total = only_a + only_b
    pmf = [math.comb(total, k) / 2**total for k in range(total + 1)]
    few = min(only_a, only_b)
    expected = 1.0 if only_a == only_b else 2 * (math.fsum(pmf[:few]) + pmf[few] / 2)
    assert p == pytest.approx(expected, rel=1e-9)
    exact = stats.binomtest(only_a, total).pvalue if total else 1.0
    assert p <= exact


def test_paired_turns_with_its_sides_and_forgets_order():
    a, b = images(60, 5, 14, 21)
    found = paired(a, b)
    other = paired(b, a)
    assert (-other.difference, other.p_value) == (found.difference, found.p_value)
    assert (-other.high, -other.low) == pytest.approx((found.low, found.high), abs=1e-12)
    order = np.random.default_rng(0).permutation(len(a))
    assert paired(a[order], b[order]) == found
    assert paired(torch.tensor(a), torch.tensor(b)) == found
    assert paired(a, a).low < 0 < paired(a, a).high  # equal here is not equal everywhere
    assert (paired(a, a).difference, paired(a, a).p_value) == (0, 1)


def test_paired_stands_at_its_extremes():
    one = paired([False], [True])
    assert (one.difference, one.p_value) == pytest.approx((1, 1 / 2))
    assert -1 <= one.low < one.high <= 1
    all_of = paired(*images(0, 0, 100_000, 0))
    assert 0.999 < all_of.low < all_of.high <= 1
    assert 0 < all_of.p_value < 1e-300


@pytest.mark.parametrize("total", [360, 10_000])
def test_interval_and_p_value_agree_but_for_one_case(total):
    apart = []
    for only_a, only_b in itertools.combinations(range(21), 2):
        found = paired(*images(total - only_a - only_b, only_a, only_b, 0))
        if found.significant != (found.low > 0 or found.high < 0):
            apart.append((only_a, only_b))
    assert apart == [(4, 12)]


@pytest.mark.parametrize(
    ("total", "a", "b", "correlation"),
    [
        (50, 0.5, 0.7, 0.0),
        (100, 0.9, 0.8, 0.6),
        (360, 0.98, 0.94, 0.3),
        (360, 0.7, 0.7, 0.9),
        (1000, 0.9, 0.92, 0.6),
        (10_000, 0.7, 0.69, 0.95),
    ],
)
def test_paired_covers_the_true_difference(total, a, b, correlation):
    covered, _, apart = simulate_paired(total, a, b, correlation)
    assert 0.93 <= covered <= 0.97
    assert apart < 0.02


@pytest.mark.parametrize(
    ("total", "share", "correlation"),
    [(50, 0.5, 0.0), (100, 0.7, 0.3), (360, 0.9, 0.6), (1000, 0.98, 0.0), (10_000, 0.9, 0.95)],
)
def test_equal_models_are_rarely_called_different(total, share, correlation):
    _, alarms, _ = simulate_paired(total, share, share, correlation)
    assert 0.03 <= alarms <= 0.07


@pytest.mark.parametrize("differing", [0.5, 2, 5])
def test_paired_is_cautious_where_hardly_an_image_differs(differing):
    # The plain bootstrap has no width at all where no image differs, and covers too little.
    both = 1 - differing / 360
    draws = np.random.default_rng(0).binomial(360, 1 - both, SETS)
    found = {n: paired(*images(360 - n, n, 0, 0)) for n in {int(n) for n in draws}}
    covered = np.mean([found[n].low <= both - 1 <= found[n].high for n in draws])
    assert covered >= 0.94
    _, alarms, _ = simulate_paired(360, both / 2, both / 2, 1 - 2 * (1 - both))
    assert alarms <= 0.05


@pytest.mark.soak
@pytest.mark.parametrize("gap", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("total", [50, 100, 360, 1000, 10_000])
def test_paired_covers_on_a_wide_grid(total, gap):
    means = []
    for accuracy, correlation in itertools.product((0.5, 0.7, 0.9, 0.98), (0, 0.3, 0.6, 0.9, 0.95)):
        worse = accuracy - gap
        covered, alarms, apart = simulate_paired(total, accuracy, worse, correlation)
        assert covered >= 0.93
        assert apart < 0.06
        assert gap or alarms <= 0.07
        if total * sum(shares(accuracy, worse, correlation)[1:3]) >= 10:
            assert covered <= 0.985
            means.append(covered)
    assert 0.94 <= np.mean(means) <= 0.97


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ([0.5, 0.5], [0.5], "same images"),
        ([[0.5, 0.5]], [[0.5, 0.5]], "same images"),
        ([], [], "same images"),
        ([True], [1.0], "is bool"),
        ([0, 1], [1, 1], "is bool"),
    ],
)
def test_what_is_not_right_or_wrong_on_the_same_images_is_refused(a, b, match):
    with pytest.raises(ValueError, match=match):
        paired(a, b)
