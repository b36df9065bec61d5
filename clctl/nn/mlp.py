"""Projector and predictor heads."""

from itertools import pairwise

from torch import nn


def mlp(*widths: int, last_norm: bool = False) -> nn.Sequential:
    """Linear, batch norm and ReLU per layer, ending in a plain Linear.

    Args:
        widths: Layer widths, input first: `mlp(512, 4096, 256)` has two Linear layers.
        last_norm: End in a batch norm without scale or shift instead.

    A Linear that is followed by batch norm has no bias, for the norm would take it away.
    """
    layers: list[nn.Module] = []
    pairs = list(pairwise(widths))
    for i, (width_in, width_out) in enumerate(pairs):
        last = i == len(pairs) - 1
        layers.append(nn.Linear(width_in, width_out, bias=last and not last_norm))
        if not last:
            layers += [nn.BatchNorm1d(width_out), nn.ReLU()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(width_out, affine=False))
    return nn.Sequential(*layers)
