"""Projector and predictor heads."""

from itertools import pairwise

from torch import nn


def mlp(
    *widths: int,
    norm: bool = True,
    last_norm: bool = False,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Linear, batch norm and activation per layer, ending in a plain Linear.

    Args:
        widths: Layer widths, input first: `mlp(512, 4096, 256)` has two Linear layers.
        norm: Whether there is batch norm behind the hidden layers.
        last_norm: End in a batch norm without scale or shift instead.
        activation: Made without arguments.

    A Linear that is followed by batch norm has no bias, for the norm would take it away.
    """
    layers: list[nn.Module] = []
    pairs = list(pairwise(widths))
    for i, (width_in, width_out) in enumerate(pairs):
        last = i == len(pairs) - 1
        layers.append(nn.Linear(width_in, width_out, bias=not (last_norm if last else norm)))
        if not last:
            layers += [nn.BatchNorm1d(width_out), activation()] if norm else [activation()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(width_out, affine=False))
    return nn.Sequential(*layers)
