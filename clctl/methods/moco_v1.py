"""MoCo v1: tell the key of the other view from a queue of past keys; the head is one layer.

Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
arXiv:1911.05722, Alg. 1, Sec. 3.3.
Differs: keys are normalised in groups of the global batch that are drawn anew every step, where
the authors move images between devices; the statistics are the same.
Year: 2019
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

    name: Literal["moco_v1"] = "moco_v1"
    projector: Widths = (128,)
    temperature: Positive = 0.07

    def build(self, encoder: Encoder, scale: Scale) -> MoCo:
        """The method around an encoder with a freshly drawn head."""
        return MoCo(self, encoder, scale)
