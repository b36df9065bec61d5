"""The axes that a linear probe sees features from."""

import pytest
import torch
from sklearn.preprocessing import StandardScaler
from test_linear import digits, toy

from clctl.evaluate.axes import carry, fit_axes, turn, widen
from clctl.evaluate.logistic import minimise
from clctl.rng import generator


def test_axes_are_orthonormal_uncorrelated_and_blind_to_constants():
    x, _ = digits()
    axes = fit_axes(x)
    eye = torch.eye(128)
    torch.testing.assert_close(axes.basis.T @ axes.basis, eye, rtol=0, atol=1e-5)
    z = turn(axes, x).double()
    assert bool((z[:, -1] == 1).all())
    correlation = z[:, :-1].T @ z[:, :-1] / len(z)
    off = correlation - correlation.diag().diag()
    assert off.abs().max().item() < 1e-5 * correlation.max().item()
    standard = StandardScaler().fit_transform(x.double().numpy())
    torch.testing.assert_close(
        z[:, :-1] @ axes.basis.double().T, torch.from_numpy(standard), rtol=0, atol=1e-4
    )
    moved = x.clone()
    moved[:, 5] = -1e6
    assert torch.equal(turn(axes, moved), turn(axes, x))


@pytest.mark.parametrize("n", [30, 12])
def test_a_function_is_carried_to_other_axes(n):
    x, _ = toy(n=60, d=20)
    old = fit_axes(x[:n])
    weight = torch.randn(2, 3, old.basis.shape[1] + 1, generator=generator("carried"))
    for new in (fit_axes(x), widen(old, x)):
        there = turn(new, x) @ carry(weight, old, new)[1].T
        torch.testing.assert_close(there, turn(old, x) @ weight[1].T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [30, 12])
def test_more_samples_renew_the_standard_and_only_a_basis_that_leaves_some_out(n):
    x, y = toy(n=60, d=20)
    old, fresh = fit_axes(x[:n]), fit_axes(x)
    wide = widen(old, x)
    assert (wide.basis is old.basis) == (n >= 20)
    assert torch.equal(wide.mean, fresh.mean)
    assert torch.equal(wide.inverse, fresh.inverse)
    probabilities = []
    for axes in (wide, fresh):
        z = turn(axes, x)
        found = minimise(z, y, torch.tensor([0.01]), classes=3, tolerance=1e-9)
        probabilities.append((z @ found.weight[0].T).softmax(dim=1))
    torch.testing.assert_close(*probabilities, rtol=0, atol=1e-4)
