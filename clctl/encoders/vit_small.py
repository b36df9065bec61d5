"""A vision transformer of 12 blocks with 6 heads: 384 features."""

from typing import Literal, final

from clctl.encoders._vit import ViT, ViTConfig


@final
class Config(ViTConfig):
    """Patch, pooling, stochastic depth, and whether the patch projection is trained."""

    name: Literal["vit_small"] = "vit_small"

    def build(self, size: int) -> ViT:
        """Freshly drawn weights for views of `size` pixels."""
        return self.made(size, width=384)
