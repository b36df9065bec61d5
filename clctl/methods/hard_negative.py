"""Hard-negative learning: the debiased loss with negatives weighted by their similarity.

Source: Robinson et al. 2021, "Contrastive Learning with Hard Negative Samples",
arXiv:2010.04592, Sec. 3 and App. C.
Differs: the projector is SimCLR's.
Year: 2020
Negatives: the other images of the batch, the nearest weighing most
Labels: no
Views: 2
State: none
Against collapse: negatives
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from clctl.losses import hard_negative_nt_xent
from clctl.method import Encoder, Scale
from clctl.methods._in_batch import InBatch
from clctl.recipe.section import Positive, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; temperature: of the similarities.

    tau_plus: prior of two images being of one class, about 1 / classes;
    beta: how much harder negatives weigh more; 0 is the debiased loss.
    """

    name: Literal["hard_negative"] = "hard_negative"
    projector: Widths = (2048, 128)
    temperature: Positive = 0.5
    tau_plus: Annotated[float, Field(ge=0, lt=1)] = 0.1
    beta: Annotated[float, Field(ge=0)] = 1.0

    def build(self, encoder: Encoder, scale: Scale) -> InBatch:
        """The method around an encoder with freshly drawn heads."""
        loss = partial(
            hard_negative_nt_xent,
            temperature=self.temperature,
            tau_plus=self.tau_plus,
            beta=self.beta,
        )
        return InBatch(encoder, self.projector, loss)
