"""SimCLR: tell the two views of an image from those of all other images of the batch.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv:2002.05709, Sec. 2 and App. B.9.
Differs: batch norm behind the hidden layers of the projector, as in the authors' code, but none
behind its output.
Year: 2020
Negatives: the other images of the batch
Labels: no
Views: 2
State: none
Against collapse: negatives
"""

from functools import partial
from typing import Literal

from clctl.losses import nt_xent
from clctl.method import Encoder, Scale
from clctl.methods._in_batch import InBatch
from clctl.recipe.section import Positive, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; temperature: of NT-Xent."""

    name: Literal["simclr"] = "simclr"
    projector: Widths = (2048, 128)
    temperature: Positive = 0.5

    def build(self, encoder: Encoder, scale: Scale) -> InBatch:
        """The method around an encoder with freshly drawn heads."""
        return InBatch(encoder, self.projector, partial(nt_xent, temperature=self.temperature))
