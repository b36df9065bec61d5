"""Debiased contrastive learning: SimCLR whose negatives are cleared of likely positives.

Source: Chuang et al. 2020, "Debiased Contrastive Learning", arXiv:2007.00224, Eq. 7-8.
Differs: the projector is SimCLR's.
Year: 2020
Negatives: the other images of the batch, less the share that may be of the anchor's class
Labels: no
Views: 2
State: none
Against collapse: negatives
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from clctl.losses import debiased_nt_xent
from clctl.method import Encoder, Scale
from clctl.methods._in_batch import InBatch
from clctl.recipe.section import Positive, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; temperature: of the similarities.

    tau_plus: prior of two images being of one class, about 1 / classes; 0 is SimCLR.
    """

    name: Literal["debiased"] = "debiased"
    projector: Widths = (2048, 128)
    temperature: Positive = 0.5
    tau_plus: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def build(self, encoder: Encoder, scale: Scale) -> InBatch:
        """The method around an encoder with freshly drawn heads."""
        loss = partial(debiased_nt_xent, temperature=self.temperature, tau_plus=self.tau_plus)
        return InBatch(encoder, self.projector, loss)
