"""The word for the geometry of features, and twins between train and test."""

import numpy as np
import pytest
import torch

from clctl.evaluate.overlap import of_images, of_rows, overlap
from clctl.evaluate.verdict import geometry
from clctl.images import Images
from clctl.rng import generator


def normal(*shape):
    return torch.randn(*shape, generator=generator("verdict", *shape))


def test_isotropic_and_power_law_features_are_healthy():
    assert geometry(normal(1000, 64)).verdict == "healthy"
    scale = 1 / torch.arange(1, 257)
    assert geometry(normal(2000, 256) * scale).verdict == "healthy"
    assert geometry(normal(500, 128).relu()).verdict == "healthy"


@pytest.mark.parametrize("rank", [1, 3, 10, 60])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_low_rank_is_found_and_named(rank, noise):
    z = normal(800, rank) @ normal(rank, 128) + noise * normal(800, 128) + 0.3
    found = geometry(z)
    assert found.verdict == f"dimensional collapse at rank {rank}"
    assert found.rank == rank
    # the centred features over sqrt(N): what PCA calls standard deviations
    expected = np.linalg.svd(z.double() - z.double().mean(0), compute_uv=False) / 800**0.5
    np.testing.assert_allclose(found.singular_values.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_one_point_is_collapse(noise):
    z = normal(1, 32).expand(300, 32) + noise * normal(300, 32)
    found = geometry(z)
    assert found.verdict == "collapsed"
    assert found.rank == 0


def test_dead_dimensions_are_counted():
    z = normal(200, 16)
    z[:, [2, 5, 7]] = torch.tensor([0.0, 1.5, -3.0])
    assert geometry(z).dead == 3
    assert geometry(z).verdict == "healthy"


def test_two_samples_and_one_dimension_have_a_verdict():
    assert geometry(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).verdict == "healthy"
    assert geometry(torch.tensor([[1.0], [-1.0], [2.0]])).verdict == "healthy"


def test_twins_are_counted_and_named():
    found = overlap([b"a", b"b", b"c"], [b"x", b"b", b"a", b"a"], "123", "pqrs")
    assert (found.identical, found.of) == (3, 4)
    assert found.named == (("q", "2"), ("r", "1"), ("s", "1"))
    alone = overlap(None, [b"x", b"y", b"x", b"x"], (), "pqrs")
    assert (alone.identical, alone.named) == (2, (("r", "p"), ("s", "p")))


def test_pictures_are_told_apart_by_what_is_seen_of_them():
    canvas = torch.zeros(5, 3, 6, 6, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    canvas[1, 0, 0, 0] = 9
    canvas[3, 2, 5, 5] = 7  # beyond the size of this picture
    sizes = torch.tensor([[6, 6], [6, 6], [6, 6], [4, 4], [4, 4]])
    digests = of_images(Images(canvas, sizes))
    same = [[a == b for a in digests] for b in digests]
    expected = [{0, 2}, {1}, {0, 2}, {3, 4}, {3, 4}]
    assert [{j for j, yes in enumerate(row) if yes} for row in same] == expected
    rows = of_rows(torch.tensor([[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]]))
    assert rows[0] == rows[2] != rows[1]
