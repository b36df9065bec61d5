"""An encoder's parameters in depth order, for rates that fall towards the input.

Source: the layers of Bao et al. 2022, "BEiT", arXiv:2106.08254, App. H.
Differs: a norm behind the last block belongs to that block, as in timm, so that to train the last
block of a transformer is never to train its last norm alone.
"""

from collections import Counter
from itertools import takewhile
from typing import Any, cast

from torch import nn

from clctl.encoders._resnet import ResNet
from clctl.encoders._vit import ViT
from clctl.encoders.resnet_small import ResNetSmall
from clctl.method import Encoder

STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3", "layer4")  # of a ResNet


def blocks(encoder: Encoder) -> list[tuple[str, list[nn.Parameter]]]:
    """Name and parameters of each block from the input to the output, each parameter once.

    The first block of a ResNet is its stem, of a transformer its tokens, positions and patch
    projection; then every residual or transformer block is one. timm's models say themselves
    how they are cut. Parameters that are never trained are listed, too.

    Raises:
        ValueError: It is not known how this kind of encoder is cut, or its cut lacks a parameter.
    """
    parameters = dict(encoder.named_parameters())
    parts = [(_label(names), names) for names in _cut(encoder) if names]
    counts = Counter(name for _, names in parts for name in names)
    wrong = [name for name in {**parameters, **counts} if counts[name] != 1]
    if wrong:
        raise ValueError(
            f"the blocks of {type(encoder).__name__} should hold each of its parameters once; "
            f"they do not for {', '.join(wrong[:3])}"
        )
    if len(parts) > 1 and all(parameters[name].dim() <= 1 for name in parts[-1][1]):
        (last, names), (norm, more) = parts[-2:]
        parts[-2:] = [(f"{last}+{norm}", names + more)]
    return [(label, [parameters[name] for name in names]) for label, names in parts]


def _cut(encoder: Encoder) -> list[list[str]]:
    """Names of parameters, block by block."""
    if isinstance(encoder, ViT):
        first = ("cls_token", "pos_embed", "patch_embed")
        rest = [*(f"blocks.{i}" for i in range(len(encoder.blocks))), "norm"]
    elif isinstance(encoder, ResNet):
        first, lengths = STEM, [(stage, len(getattr(encoder, stage))) for stage in STAGES]
        rest = [f"{stage}.{i}" for stage, length in lengths for i in range(length)]
    elif isinstance(encoder, ResNetSmall):
        first, rest = STEM, [*STAGES]  # a stage is one block
    elif hasattr(encoder, "group_matcher"):
        return _timms(encoder)
    else:
        raise ValueError(
            f"it is not known which blocks {type(encoder).__name__} is made of; "
            "known are the ResNets and ViTs of clctl and the models of timm"
        )
    # A dot behind each, so that blocks.1 is not the start of blocks.11.
    starts = [tuple(f"{top}." for top in tops) for tops in (first, *((top,) for top in rest))]
    names = [name for name, _ in encoder.named_parameters()]
    return [[name for name in names if f"{name}.".startswith(start)] for start in starts]


def _timms(encoder: nn.Module) -> list[list[str]]:
    """The cut that a model of timm brings for layer-wise rates."""
    from timm.models import group_parameters

    places = group_parameters(encoder, cast(Any, encoder).group_matcher(coarse=False))
    return [places[i] for i in sorted(places)]


def _label(names: list[str]) -> str:
    """The module that all names lie in, or the outermost modules: layer1.0, conv1+bn1."""
    paths = [name.split(".") for name in names]
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ".".join(level[0] for level in shared) or "+".join(dict.fromkeys(p[0] for p in paths))
