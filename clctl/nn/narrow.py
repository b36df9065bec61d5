"""Strided convolutions that stay right in bf16 on a processor.

Where a feature map is narrower than the stride, as the last maps of very small views are, oneDNN
leaves part of the bf16 gradient of the weights unwritten: seen with torch 2.14.1 on a processor
with avx512_bf16, for every kernel wider than one pixel. Output, and gradient of the input, are
right, and so is all of it in float32.
"""

import torch
from torch import Tensor, nn


class StridedConv2d(nn.Conv2d):
    """A convolution that works in float32 on maps narrower than its stride."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.shape[-1] >= self.stride[-1]:
            return super()._conv_forward(input, weight, bias)
        with torch.autocast(input.device.type, enabled=False):
            return super()._conv_forward(input.float(), weight, bias)


def guard_strides(module: nn.Module) -> None:
    """Make every strided convolution in `module` a StridedConv2d, in place."""
    for each in module.modules():
        if type(each) is nn.Conv2d and max(each.stride) > 1 and max(each.kernel_size) > 1:
            each.__class__ = StridedConv2d
