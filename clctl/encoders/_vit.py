"""Vision transformers with timm's keys, for any image and patch size.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929, with the sizes of DeiT (arXiv:2012.12877) and
DINO (arXiv:2104.14294); the fixed patch projection is MoCo v3's, arXiv:2104.02057, Sec. 4.
Differs: positions of another grid are interpolated to exactly its size, where DINO's code scales
by a tenth of a patch more, against rounding that whole sizes do not have.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from clctl.method import Encoder
from clctl.recipe.section import Conflict, Count, Section, Weights

if TYPE_CHECKING:
    from clctl.recipe.sections import Recipe

DEPTH, HEAD, STD = 12, 64, 0.02  # blocks, channels of a head, spread of fresh weights
LARGEST = 1024  # pixels of a patch that is proposed


class ViTConfig(Section):
    """patch: side of a patch in pixels; every view must be a multiple of it.

    pool: features are the class token, or the mean over the patches, after the last norm.
    drop_path: share of samples that skip the last block in training; it grows from 0 at the first.
    frozen_patch: the patch projection keeps its first weights.
    weights: what training starts from: imagenet, timm's public weights of patch 16 at 224 px, or
    a .safetensors file with the keys of timm or clctl; null draws them.
    """

    patch: Count = 16
    pool: Literal["cls", "mean"] = "cls"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    frozen_patch: bool = False
    weights: Weights | None = None

    def made(self, size: int, width: int) -> "ViT":
        """Freshly drawn weights for views of `size` pixels."""
        return ViT(size, self.patch, width, self.pool, self.drop_path, self.frozen_patch)

    def facts(self, size: int) -> dict[str, Any]:
        """What was settled when the encoder was built, for the log and for export."""
        return {"patch": self.patch, "pool": self.pool, "tokens": 1 + (size // self.patch) ** 2}

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """Views that cannot be cut into whole patches."""
        groups = enumerate(recipe.views.groups)
        main = "encoder.patch" if "patch" in self.model_fields_set else "views.size"
        sizes = [(main, recipe.views.size)]
        sizes += [(f"views.groups[{i}].size", group.size) for i, group in groups if group.size]
        for path, size in sizes:
            if size % self.patch:
                below = size // self.patch * self.patch
                whole = [n for n in range(1, min(size, LARGEST) + 1) if size % n == 0]
                patches = [n for n in whole if n < self.patch][-1:]
                patches += [n for n in whole if n > self.patch][:1]
                yield Conflict(
                    path,
                    f"views of {size} pixels cannot be cut into patches of {self.patch}",
                    f"views of {_either(below, below + self.patch)} pixels can, "
                    f"or patches of {_either(*patches)}",
                )


def _either(*numbers: int) -> str:
    return " or ".join(str(n) for n in numbers if n)


class ViT(Encoder):
    """Keys of the state dict are those of timm's VisionTransformer, without `head`."""

    def __init__(
        self, size: int, patch: int, width: int, pool: str, drop_path: float, frozen_patch: bool
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"views of {size} pixels cannot be cut into patches of {patch}")
        self.width, self.patch, self.pool, self.grid = width, patch, pool, size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        # Drawn as torch draws convolutions, as in DINO's and timm's code.
        proj = nn.Conv2d(3, width, patch, stride=patch)
        self.patch_embed = nn.ModuleDict({"proj": proj.requires_grad_(not frozen_patch)})
        rates = [drop_path * i / (DEPTH - 1) for i in range(DEPTH)]
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for p in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(p, std=STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(dim=1)

    def tokens(self, x: Tensor) -> Tensor:
        """Class token and patches, row by row, after the last norm: [B, 1 + h * w, width]."""
        x = self._embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def layers(self, x: Tensor, count: int) -> Tensor:
        """Class tokens of the last `count` blocks and the mean of the last one's patches.

        Each after the last norm, one after the other: [B, (count + 1) * width].
        Source: Caron et al. 2021, "DINO", arXiv:2104.14294, App. F.2.
        """
        x, kept = self._embedded(x), []
        for block in self.blocks:
            x = block(x)
            kept = [*kept, x][-count:]
        kept = [self.norm(tokens) for tokens in kept]
        return torch.cat([*(tokens[:, 0] for tokens in kept), kept[-1][:, 1:].mean(dim=1)], dim=1)

    def attention_maps(self, x: Tensor, block: int = -1) -> Tensor:
        """Attention of each token (dim 2) to each (dim 3) in one block: [B, heads, T, T].

        Rows sum to 1; T is 1 + h * w, the class token first. With gradient.
        """
        x = self._embedded(x)
        last = range(len(self.blocks))[block]
        for before in self.blocks[:last]:
            x = before(x)
        chosen = self.blocks[last]
        assert isinstance(chosen, Block)
        return chosen.attn.maps(chosen.norm1(x))

    def _embedded(self, x: Tensor) -> Tensor:
        """Tokens with positions, [B, 1 + h * w, width]."""
        if x.shape[-2] % self.patch or x.shape[-1] % self.patch:
            shape = " x ".join(map(str, x.shape[-2:]))
            raise ValueError(f"{shape} pixels cannot be cut into patches of {self.patch}")
        maps = self.patch_embed["proj"](x)  # [B, width, h, w]
        tokens = maps.flatten(2).transpose(1, 2)
        start = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([start, tokens], dim=1) + self._positions(maps.shape[-2], maps.shape[-1])

    def _positions(self, height: int, width: int) -> Tensor:
        """`pos_embed` for a grid: bicubic, without antialiasing, the class token's as it is."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        return resampled(self.pos_embed, self.grid, height, width)


def resampled(positions: Tensor, grid: int, height: int, width: int | None = None) -> Tensor:
    """Positions [1, 1 + grid^2, C] for another grid, [1, 1 + height * width, C]; bicubic.

    Args:
        width: Of the new grid, its height unless given.
    """
    width = height if width is None else width
    start, old = positions.split([1, grid**2], dim=1)
    # As two matrix products, for the gradient of `interpolate` varies from run to run on CUDA.
    with torch.autocast(old.device.type, enabled=False):
        rows, columns = (_bicubic(grid, n, old) for n in (height, width))
        lines = (rows @ old.reshape(grid, -1)).reshape(height, grid, -1)
        new = columns @ lines  # [height, width, channels]
    return torch.cat([start, new.reshape(1, height * width, -1)], dim=1)


class Block(nn.Module):
    """Attention and MLP, each behind its norm and beside a shortcut."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention in heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._split(x)
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, heads, T, HEAD]
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def maps(self, x: Tensor) -> Tensor:
        """The weights that `forward` uses, [B, heads, T, T]."""
        query, key, _ = self._split(x)
        return (query @ key.transpose(-2, -1) * HEAD**-0.5).softmax(dim=-1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of each head, [B, heads, T, HEAD]."""
        parts = self.qkv(x).unflatten(-1, (3, -1, HEAD))  # [B, T, 3, heads, HEAD]
        return parts.permute(2, 0, 3, 1, 4).unbind()


def _bicubic(old: int, new: int, like: Tensor) -> Tensor:
    """Weights [new, old] of the old places in each new one, as `interpolate` has them."""
    eye = torch.eye(old, device=like.device, dtype=like.dtype)[None, None]
    return F.interpolate(eye, size=(new, old), mode="bicubic", align_corners=False)[0, 0]
