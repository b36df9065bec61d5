"""MoCo v2: MoCo with a head of two layers and SimCLR's views.

Source: Chen et al. 2020, "Improved Baselines with Momentum Contrastive Learning",
arXiv:2003.04297, Sec. 3; He et al. 2020, arXiv:1911.05722, Alg. 1.
Differs: keys are normalised in groups of the global batch that are drawn anew every step, where
the authors move images between devices; the statistics are the same.
Year: 2020
Negatives: a queue of past keys
Labels: no
Views: 2
State: teacher, queue
Against collapse: negatives
"""

from typing import Literal

from clctl.method import Encoder, Scale
from clctl.methods._moco import MoCo, MoCoConfig
from clctl.recipe.section import Positive, Widths


class Config(MoCoConfig):
    """As in `MoCoConfig`."""

    name: Literal["moco_v2"] = "moco_v2"
    projector: Widths = (2048, 128)
    temperature: Positive = 0.2

    def build(self, encoder: Encoder, scale: Scale) -> MoCo:
        """The method around an encoder with freshly drawn heads."""
        return MoCo(self, encoder, scale)
