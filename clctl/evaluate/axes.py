"""Features seen from their own axes: standardised, then turned to where they are uncorrelated.

A linear model with a penalty on |w|² is the same model from any orthonormal axes. From these the
curvature of its loss is near diagonal, and directions that no sample spans are left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 1024  # standardised at once, in float64


@dataclass(frozen=True)
class Axes:
    """Where features are seen from.

    Attributes:
        mean: float64 [D].
        inverse: float64 [D], one over the standard deviation; 0 for a constant feature, which
            tells nothing and whose weight would be 0.
        basis: float32 [D, K], orthonormal columns, K = min(N, D).
    """

    mean: Tensor
    inverse: Tensor
    basis: Tensor


def fit_axes(x: Tensor) -> Axes:
    """The principal axes of standardised samples: float32 [N, D], finite, N >= 1."""
    mean, inverse = _scale(x)
    # More features than samples: within the span of the samples nothing is lost.
    wide = x.shape[1] > len(x)
    span = torch.linalg.qr(_standard(x, mean, inverse).T).Q if wide else None
    size = min(x.shape)
    covariance = torch.zeros(size, size, dtype=torch.float64, device=x.device)
    for part in x.split(ROWS):
        standard = _standard(part, mean, inverse)
        seen = standard if span is None else standard @ span
        covariance += seen.T @ seen
    basis = torch.linalg.eigh(covariance).eigenvectors.float()
    return Axes(mean, inverse, basis if span is None else span @ basis)


def widen(axes: Axes, x: Tensor) -> Axes:
    """Axes of samples that these were fitted to, and more: standardised anew.

    A basis of the whole space stays, for it leaves nothing out and is still nearly uncorrelated; to
    find another would take most of the time of a fit on wide features.
    """
    if axes.basis.shape[0] > axes.basis.shape[1]:
        return fit_axes(x)
    return Axes(*_scale(x), axes.basis)


def turn(axes: Axes, x: Tensor) -> Tensor:
    """float32 [N, D] -> float32 [N, K + 1] along the axes; the last column is 1, for a bias."""
    turned = torch.ones(len(x), axes.basis.shape[1] + 1, device=x.device)
    for part, out in zip(x.split(ROWS), turned.split(ROWS), strict=True):
        out[:, :-1] = _standard(part, axes.mean, axes.inverse) @ axes.basis
    return turned


def carry(weight: Tensor, old: Axes, new: Axes) -> Tensor:
    """The same linear function along other axes: float32 [..., K + 1] -> [..., K' + 1]."""
    raw = (weight[..., :-1].double() @ old.basis.double().T) * old.inverse
    bias = weight[..., -1].double() + raw @ (new.mean - old.mean)
    deviation = torch.where(new.inverse > 0, 1 / new.inverse, 0.0)
    turned = (raw * deviation) @ new.basis.double()
    return torch.cat([turned, bias[..., None]], dim=-1).float()


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation of each feature: float64 [D]."""
    mean = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(ROWS):
        mean += part.double().sum(dim=0) / len(x)
    square = torch.zeros_like(mean)
    for part in x.split(ROWS):
        square += part.double().sub_(mean).square_().sum(dim=0) / len(x)
    varies = x.amax(dim=0) > x.amin(dim=0)
    return mean, torch.where(varies & (square > 0), square.rsqrt(), 0.0)


def _standard(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """In float64 to the last step: a large mean must not swallow a small deviation."""
    return x.double().sub_(mean).mul_(inverse).float()
