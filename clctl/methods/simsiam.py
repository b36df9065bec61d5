"""SimSiam: predict the other view's projection, which gets no gradient; no teacher, no negatives.

Source: Chen & He 2021, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566,
Alg. 1, Sec. 3 and 4; the predictor's rate is fixed as in the authors' code.
Year: 2020
Negatives: none
Labels: no
Views: 2
State: none
Against collapse: predictor and stopped gradient
"""

from typing import Any, Literal, final

from torch.nn import functional as F

from clctl.losses import negative_cosine
from clctl.method import Batch, Clock, Encoder, Method, Scale, Step, watched
from clctl.nn.mlp import mlp
from clctl.recipe.section import Count, Widths
from clctl.recipe.sections import Objective


class Config(Objective):
    """projector: widths of its layers, output last; predictor: its hidden width.

    stop_gradient false lets the gradient reach the target, to see the collapse that it prevents.
    """

    name: Literal["simsiam"] = "simsiam"
    projector: Widths = (2048, 2048, 2048)
    predictor: Count = 512
    stop_gradient: bool = True

    def build(self, encoder: Encoder, scale: Scale) -> "SimSiam":
        """The method around an encoder with freshly drawn heads."""
        return SimSiam(self, encoder)


@final
class SimSiam(Method):
    """Encoder, projector and predictor."""

    ideal = -1.0

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        out = config.projector[-1]
        self.loss = negative_cosine if config.stop_gradient else _both
        self.encoder = encoder
        self.projector = mlp(encoder.width, *config.projector, last_norm=True)
        self.predictor = mlp(out, config.predictor, out)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        features, _ = seen = [self.encoder(view) for view in batch.views]
        a, b = (self.projector(h) for h in seen)
        loss = (self.loss(self.predictor(a), b) + self.loss(self.predictor(b), a)) / 2
        return Step(loss, watched(features, a))

    def groups(self) -> list[dict[str, Any]]:
        """The predictor keeps its rate: it must stay ahead of the encoder (Sec. 4.2)."""
        own = {id(p) for p in self.predictor.parameters()}
        found = []
        for group in super().groups():
            inside = [p for p in group["params"] if id(p) in own]
            outside = [p for p in group["params"] if id(p) not in own]
            found += [{**group, "params": outside}, {**group, "params": inside, "scheduled": False}]
        return found


def _both(prediction: Any, target: Any) -> Any:
    return -F.cosine_similarity(prediction.float(), target.float(), dim=1).mean()
