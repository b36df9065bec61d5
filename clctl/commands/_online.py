"""The score that training shows on its way: kNN of one part of train against another."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clctl.commands import _setup
from clctl.evaluate.features import extract
from clctl.evaluate.knn import knn
from clctl.evaluate.score import score
from clctl.images import Split
from clctl.recipe.policy import Views
from clctl.rng import generator

BANK, QUERIES = 4000, 1000  # images of train


@dataclass(frozen=True)
class Online:
    """Queries and bank, both out of train: the test part is not touched before the end.

    Both are trained on, without labels: a sign of learning, not a score.
    """

    bank: Split
    queries: Split
    classes: int
    views: Views
    device: torch.device

    def __call__(self, encoder: nn.Module) -> float:
        """Top-1 in [0, 1]."""
        return self.top1(*self.features(encoder))

    def features(self, encoder: nn.Module) -> tuple[Tensor, Tensor]:
        """Of bank and queries, float32 [N, D] each, on the CPU; all ranks ask for them alike.

        Encoded in bf16 where CUDA has it: a sign of learning does not pay for more digits.
        """
        ready, parts = _setup.preparation(self.views), (self.bank, self.queries)
        fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            bank, queries = (extract(encoder, part.images, ready, self.device) for part in parts)
        return bank, queries

    def top1(self, bank: Tensor, queries: Tensor) -> float:
        """The score of these features, in [0, 1]."""
        assert self.bank.labels is not None
        assert self.queries.labels is not None
        votes = knn(bank, self.bank.labels, queries, classes=self.classes)
        return score(votes, self.queries.labels).metrics["top1"]


def online(split: Split, classes: int, views: Views, device: torch.device) -> Online:
    """The same images of `split` in every run."""
    order = torch.randperm(len(split), generator=generator(0, "online"))
    queries = min(QUERIES, max(1, len(order) // 5))
    bank = order[queries : queries + BANK]
    held, asked = split.take(bank.sort().values), split.take(order[:queries].sort().values)
    return Online(held, asked, classes, views, device)
