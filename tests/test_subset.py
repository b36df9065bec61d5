"""Which samples are held out, and which labels are left."""

import pytest
import torch

from clctl.evaluate.subset import balanced, held_out
from clctl.rng import generator


def labels(counts):
    whole = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    return whole[torch.randperm(len(whole), generator=generator("labels"))]


@pytest.mark.parametrize(
    ("counts", "fraction", "each"),
    [
        ((50, 50, 50, 50), 0.1, [5, 5, 5, 5]),
        ((100, 50, 10), 0.3, [16, 16, 10]),  # a class that has fewer gives all
        ((30, 30), 0.001, [1, 1]),
        ((7, 9), 1.0, [7, 9]),
    ],
)
def test_every_class_gives_equally_many(counts, fraction, each):
    y = labels(counts)
    rows = balanced(y, fraction, 0)
    assert torch.bincount(y[rows], minlength=len(counts)).tolist() == each
    assert torch.equal(rows, rows.unique())


def test_a_larger_share_contains_the_smaller_and_the_seed_draws_others():
    y = labels((80, 80, 80))
    small, large = (set(balanced(y, share, 3).tolist()) for share in (0.05, 0.4))
    assert small < large
    assert set(balanced(y, 0.05, 4).tolist()) != small


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        balanced(labels((3, 3)), fraction, 0)


def test_a_tenth_of_each_class_is_held_out_and_an_only_sample_never():
    y = labels((40, 20, 4, 1))
    fit, held = held_out(y)
    assert torch.equal(torch.cat([fit, held]).sort().values, torch.arange(65))
    assert torch.bincount(y[held], minlength=4).tolist() == [4, 2, 1, 0]
    assert not torch.equal(held, held_out(y, 1)[1])
    with pytest.raises(ValueError, match="two training samples"):
        held_out(torch.arange(5))
