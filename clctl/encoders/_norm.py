"""The norm layers that an encoder can be built with."""

from collections.abc import Callable
from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]
CHANNELS = 16  # of a group


def layer(norm: Norm) -> Callable[[int], nn.Module]:
    """Channels -> their norm layer, for feature maps [B, C, H, W].

    Group norm has groups of 16 channels (Wu & He 2018, "Group Normalization", arXiv:1803.08494,
    Tab. 3). Where 16 does not divide the channels, it has as many equal groups as leave 16
    channels or more to each: 24 channels are one group, 40 are two of 20.
    """
    return nn.BatchNorm2d if norm == "batch" else _group_norm


def _group_norm(channels: int) -> nn.GroupNorm:
    most = max(1, channels // CHANNELS)
    return nn.GroupNorm(next(n for n in range(most, 0, -1) if channels % n == 0), channels)
