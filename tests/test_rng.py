"""Counted randomness."""

import pytest
import torch

from clctl.rng import generator, seed_of, seeded


def test_seeds_are_the_same_on_every_machine():
    # Values that were drawn once: a change would change every run there ever was.
    assert seed_of(0, "views", 7) == 3631020783555049516
    assert seed_of() == 5460801731388113703


def test_every_part_of_a_key_counts():
    keys = [(0, "views", 7), (1, "views", 7), (0, "model", 7), (0, "views", 8), (0, "views", "7")]
    assert len({seed_of(*key) for key in [*keys, (0, "views"), ("0", "views", 7)]}) == 7
    assert all(0 <= seed_of(i) < 2**63 for i in range(1000))


def test_generators_of_one_key_draw_alike():
    draws = [torch.rand(3, generator=generator(*key)) for key in ((1, "a"), (1, "a"), (1, "b"))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_seeded_draws_alike_and_puts_the_global_generator_back():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded("x"):
        first = torch.rand(3)

    def fail():
        with seeded("x"):
            assert torch.equal(torch.rand(3), first)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert torch.equal(torch.rand(2), expected)
