"""Readings of collapse and geometry: explicit loops, closed forms, and what they are blind to.

`rank_me`, `feature_std` and `feature_spread` are in `test_features.py` too.
"""

from math import exp, log, sqrt

import pytest
import torch

from clctl.evaluate.diagnostics import (
    alignment,
    covariance_spectrum,
    feature_std,
    lidar,
    mutual_information_bound,
    rank_me,
    uniformity,
)
from clctl.losses import info_nce
from clctl.rng import generator


def rows(*key, n=7, d=4):
    return torch.randn(n, d, generator=generator("diagnostics", *key), dtype=torch.float64)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def squared_distance(x, y):
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True))


def test_alignment_equals_loops_of_wang_2005_10242():
    a, b = rows("a"), rows("b")
    expected = sum(squared_distance(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)) / 7
    assert alignment(a, b) == pytest.approx(expected, rel=1e-12)
    assert alignment(a, a) == 0
    assert alignment(unit(a), -unit(a)) == pytest.approx(4)


def test_uniformity_equals_loops_of_wang_2005_10242():
    u = unit(rows("u"))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    terms = [exp(-2 * squared_distance(u[i].tolist(), u[j].tolist())) for i, j in pairs]
    assert uniformity(u) == pytest.approx(log(sum(terms) / len(pairs)), rel=1e-12)


def test_uniformity_of_plain_rows():
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.eye(6)) == pytest.approx(-4, rel=1e-12)  # all distances are sqrt 2
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8, rel=1e-12)
    assert uniformity(100 * torch.eye(2)) == pytest.approx(-40000)  # exp(-40000) itself is 0


@pytest.mark.parametrize("n", [3, 12])
def test_covariance_spectrum_equals_the_eigenvalues_of_loops(n):
    z = rows("z", n=n, d=5)
    means = [sum(column) / n for column in z.T.tolist()]
    cov = [
        [sum((r[i] - means[i]) * (r[j] - means[j]) for r in z.tolist()) / n for j in range(5)]
        for i in range(5)
    ]
    expected = torch.linalg.eigvalsh(torch.tensor(cov, dtype=torch.float64)).flip(0).tolist()
    found = covariance_spectrum(z).tolist()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found == sorted(found, reverse=True)
    assert covariance_spectrum(z + 100).tolist() == pytest.approx(found, abs=1e-9)
    assert [x > 1e-12 for x in found] == [True] * min(n - 1, 5) + [False] * (5 - min(n - 1, 5))


def test_covariance_spectrum_sees_small_directions_and_collapse():
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    scaled = signs * torch.tensor([1e-9, 1.0])
    assert covariance_spectrum(scaled).tolist() == pytest.approx([1, 1e-18], rel=1e-6)
    assert covariance_spectrum(torch.ones(4, 3)).tolist() == [0, 0, 0]


def test_rank_me_of_garrido_2210_02885_eq_1_counts_directions_of_uncentred_rows():
    assert rank_me(torch.eye(6)) == pytest.approx(6, rel=1e-5)
    assert rank_me(torch.ones(6, 4)) == pytest.approx(1, rel=1e-5)  # centred, it would have none
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    shares = [0.5 + 1e-7, 0.25 + 1e-7, 0.125 + 1e-7, 0.125 + 1e-7]
    expected = exp(-sum(p * log(p) for p in shares))
    assert rank_me(torch.diag(values)) == pytest.approx(expected, rel=1e-12)


def test_feature_std_of_isotropic_and_of_collapsed_rows():
    z = rows("many", n=20000, d=8)
    assert feature_std(z) == pytest.approx(1 / sqrt(8), rel=0.01)
    assert feature_std(z * rows("sizes", n=20000, d=1).abs()) == pytest.approx(feature_std(z))
    assert feature_std(torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)


def test_mutual_information_bound_of_cpc_1807_03748_sec_2_3():
    assert mutual_information_bound(0.0, 256) == log(256)
    assert mutual_information_bound(log(256), 256) == 0
    knows_nothing = info_nce(torch.ones(8, 3), torch.ones(8, 3)).item()
    assert mutual_information_bound(knows_nothing, 8) == pytest.approx(0, abs=1e-6)


def lidar_oracle(x, delta):
    """Eigenvalues of W^-1 B, which are those of the symmetric form, from scatters by loops."""
    n, q, d = x.shape
    objects = x.tolist()
    means = [[sum(view[k] for view in views) / q for k in range(d)] for views in objects]
    middle = [sum(m[k] for m in means) / n for k in range(d)]
    b, w = ([[0.0] * d for _ in range(d)] for _ in range(2))
    for i in range(d):
        w[i][i] += delta
        for j in range(d):
            for m, views in zip(means, objects, strict=True):
                b[i][j] += (m[i] - middle[i]) * (m[j] - middle[j]) / (n - 1)
                for v in views:
                    w[i][j] += (v[i] - m[i]) * (v[j] - m[j]) / (n * (q - 1))
    between, within = (torch.tensor(s, dtype=torch.float64) for s in (b, w))
    values = torch.linalg.eigvals(torch.linalg.solve(within, between)).real.clamp_min(0).tolist()
    shares = [v / sum(values) + 1e-8 for v in values]
    return exp(-sum(p * log(p) for p in shares))


@pytest.mark.parametrize(("n", "q", "d"), [(9, 4, 3), (4, 3, 6), (2, 2, 2)])
@pytest.mark.parametrize("delta", [1e-4, 0.5])
def test_lidar_equals_loops_of_thilak_2312_04000(n, q, d, delta):
    x = rows("objects", n=n * q, d=d).view(n, q, d) + rows("centers", n=n, d=d)[:, None]
    assert lidar(x, delta) == pytest.approx(lidar_oracle(x, delta), rel=1e-6)


def test_lidar_counts_directions_that_tell_objects_apart():
    noise = 0.01 * rows("noise", n=800 * 8, d=4).view(800, 8, 4)
    centers = rows("centers", n=800, d=4)
    assert lidar(noise + centers[:, None]) == pytest.approx(4, rel=0.02)
    flat = centers * torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert lidar(noise + flat[:, None]) == pytest.approx(2, rel=0.02)
    # RankMe counts the noise between views of an object as well.
    loud = 5 * rows("loud", n=800 * 8, d=4).view(800, 8, 4) * torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert lidar(noise + loud + flat[:, None]) == pytest.approx(2, rel=0.05)
    assert rank_me((noise + loud + flat[:, None]).flatten(0, 1)) > 2.5


def test_lidar_does_not_see_a_linear_map():
    x = rows("objects", n=60, d=3).view(12, 5, 3) + rows("centers", n=12, d=3)[:, None]
    mapped = x @ (rows("map", n=3, d=3) + 3 * torch.eye(3, dtype=torch.float64))
    assert lidar(mapped, 1e-12) == pytest.approx(lidar(x, 1e-12), rel=1e-6)


def test_lidar_of_collapsed_features_is_one():
    assert lidar(torch.ones(4, 3, 5)) == pytest.approx(1, rel=1e-5)
    line = torch.arange(4.0)[:, None, None].expand(4, 3, 5)
    assert lidar(line) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda z: alignment(z, z[:3]),
        lambda z: alignment(z[:0], z[:0]),
        lambda z: alignment(z[0], z[0]),
        lambda z: uniformity(z[:1]),
        lambda z: uniformity(z[0]),
        lambda z: covariance_spectrum(z[0]),
        lambda z: covariance_spectrum(z[:, :0]),
        lambda z: lidar(z),
        lambda z: lidar(z[None]),
        lambda z: lidar(z[:, None]),
        lambda z: lidar(z.view(7, 2, 2), 0.0),
        lambda z: mutual_information_bound(1.0, 0),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match=r"must be|must have one shape"):
        call(rows("z"))


def test_half_precision_is_read_in_float64():
    z = rows("z").bfloat16()
    assert uniformity(z) == uniformity(z.double())
    assert alignment(z, -z) == alignment(z.double(), -z.double())
    assert torch.equal(covariance_spectrum(z), covariance_spectrum(z.double()))
    assert lidar(z[:6].view(3, 2, 4)) == lidar(z[:6].view(3, 2, 4).double())
