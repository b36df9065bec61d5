"""What a vision transformer looks at: the attention of its heads, and its patches as colours.

Source: Caron et al. 2021, "DINO", arXiv:2104.14294, Fig. 1 (attention of the class token in the last
block); Oquab et al. 2023, "DINOv2", arXiv:2304.07193, Fig. 1 (components of patches as colours).
"""

import torch
from torch import Tensor

from clctl.encoders._vit import ViT

EDGE = 0.02  # share of the patches that a colour may leave out at each end


def attention(vit: ViT, x: Tensor) -> Tensor:
    """How much the last block looks at each patch, for each head: [B, heads, h, w], sums up to 1.

    By the class token where that is the feature, else by the patches on average.

    Args:
        x: What the encoder gets, float [B, 3, H, W].
    """
    maps = vit.attention_maps(x)  # [B, heads, T, T]
    seen = maps[:, :, 0] if vit.pool == "cls" else maps[:, :, 1:].mean(dim=2)
    return seen[..., 1:].unflatten(-1, _grid(vit, x))


def patch_colours(vit: ViT, x: Tensor) -> Tensor:
    """The first three principal components of all patches as red, green, blue: uint8 [B, 3, h, w].

    One colour means one thing in all pictures of a batch.

    Args:
        x: What the encoder gets, float [B, 3, H, W].
    """
    tokens = vit.tokens(x)[:, 1:].double()  # [B, h * w, width]
    flat = tokens.flatten(0, 1)
    around = flat - flat.mean(dim=0)
    _, _, axes = torch.linalg.svd(around, full_matrices=False)
    parts = around @ axes[:3].T
    largest = parts.gather(0, parts.abs().argmax(dim=0, keepdim=True))
    parts = parts * largest.sign()  # an axis has no direction of its own
    low, high = parts.quantile(EDGE, dim=0), parts.quantile(1 - EDGE, dim=0)
    scaled = ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colours = (255 * scaled).round().byte().view(*tokens.shape[:2], -1)
    colours = torch.nn.functional.pad(colours, (0, 3 - colours.shape[2]))
    return colours.transpose(1, 2).unflatten(-1, _grid(vit, x))


def warmth(maps: Tensor) -> Tensor:
    """Each map from its least to its most as black, red, yellow, white: uint8 [..., 3, h, w]."""
    from matplotlib import colormaps

    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    scaled = (maps - low) / (high - low).clamp_min(1e-12)
    coloured = torch.from_numpy(colormaps["inferno"](scaled.numpy(), bytes=True)[..., :3].copy())
    return coloured.movedim(-1, -3)


def _grid(vit: ViT, x: Tensor) -> tuple[int, int]:
    return x.shape[-2] // vit.patch, x.shape[-1] // vit.patch
