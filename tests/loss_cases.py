"""The table of all losses that the tests of losses go through: how to call each, and on what."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import loss_oracles as oracles
import pytest
import torch
from torch import Tensor

from clctl import losses
from clctl.rng import generator

WIDTH = 4


def rows(*key: int | str, n: int = 6, d: int = WIDTH, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=generator("losses", *key), dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Case:
    """A loss with its options, on the inputs named in `inputs`.

    Names: `labels` and `same` are integers, one per row; `bank` has rows of its own number;
    `center` is one row; `q*` are rows of sum 1; all others are rows of samples. `sort` says what
    leaves the value alone: `cosine` scale and rotation, `distance` and `dot` rotation.
    """

    name: str
    inputs: str
    sort: str
    stopped: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    sharp: dict[str, float] = field(default_factory=dict)
    lists: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        return self.inputs.split()

    @property
    def constant(self) -> set[int]:
        """Places of the inputs that receive no gradient."""
        silent = {*self.stopped.split(), "labels", "same", "bank", "center"}
        return {i for i, name in enumerate(self.names) if name in silent}

    @property
    def learning(self) -> list[int]:
        """Places of the inputs that receive gradients."""
        return [i for i in range(len(self.names)) if i not in self.constant]

    def draw(self, n: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [self._one(name, n, dtype) for name in self.names]

    def _one(self, name: str, n: int, dtype: torch.dtype) -> Tensor:
        if name == "labels":  # 0 thrice, 1 twice, 2 once: three sorts of anchors
            return torch.tensor([0, 1, 0, 2, 1, 0, 3, 3, 4, 0])[:n]
        if name == "same":
            return torch.tensor([1, 0, 0, 1, 0, 1, 0, 0, 0, 1])[:n]
        if name == "center":
            return rows(name, n=1, dtype=dtype)[0]
        x = rows(name, n=5 if name == "bank" else n, dtype=dtype)
        return x.softmax(dim=1) if name.startswith("q") else x

    def _grouped(self, given: list[Any]) -> list[Any]:
        """Arguments of the function: crops as lists, then what is left."""
        grouped: list[Any] = []
        for size in self.lists:
            grouped.append(given[:size])
            given = given[size:]
        return [*grouped, *given]

    def __call__(self, *given: Tensor, sharp: bool = False) -> Tensor:
        options = self.options | (self.sharp if sharp else {})
        return getattr(losses, self.name)(*self._grouped(list(given)), **options)

    def oracle(self, *given: Tensor) -> float:
        function: Callable[..., float] = getattr(oracles, self.name)
        return function(*self._grouped([x.tolist() for x in given]), **self.options)


T = {"temperature": 0.01}
CASES = {
    "Hadsell 2006 Eq. 4": Case("pairwise_contrastive", "a b same", "distance"),
    "Hadsell 2006 Eq. 4, wide margin": Case(
        "pairwise_contrastive", "a b same", "distance", options={"margin": 5.0}
    ),
    "FaceNet 1503.03832 Sec. 3.1": Case("triplet", "a p n", "distance", options={"margin": 1.0}),
    "FaceNet 1503.03832 Sec. 3.1, squared": Case(
        "triplet", "a p n", "distance", options={"squared": True}
    ),
    "FaceNet 1503.03832 Sec. 3.2 semi-hard": Case("mined_triplet", "z labels", "distance"),
    "FaceNet 1503.03832 Sec. 3.2 semi-hard, squared": Case(
        "mined_triplet", "z labels", "distance", options={"squared": True, "margin": 1.5}
    ),
    "Hermans 1703.07737 Eq. 5 hard": Case(
        "mined_triplet", "z labels", "distance", options={"mining": "hard"}
    ),
    "Hermans 1703.07737 Eq. 6 all": Case(
        "mined_triplet", "z labels", "distance", options={"mining": "all"}
    ),
    "N-pair Sohn 2016 Sec. 3.2, CPC 1807.03748 Eq. 4": Case("n_pair", "a p", "dot"),
    "InfoNCE 1807.03748 Eq. 4": Case("info_nce", "a p", "cosine", sharp=T),
    "MoCo 1911.05722 Eq. 1": Case("info_nce", "a p bank", "cosine", sharp=T),
    "SimCLR 2002.05709 Eq. 1": Case("nt_xent", "a b", "cosine", sharp=T),
    "SimCLR 2002.05709 Eq. 1, sharp": Case("nt_xent", "a b", "cosine", options=T),
    "debiased 2007.00224 Eq. 7, 8": Case("debiased_nt_xent", "a b", "cosine", sharp=T),
    "debiased 2007.00224 Eq. 7, 8, at its floor": Case(
        "debiased_nt_xent", "a b", "cosine", options={"temperature": 0.2, "tau_plus": 0.5}
    ),
    "hard negatives 2010.04592 Sec. 3": Case("hard_negative_nt_xent", "a b", "cosine", sharp=T),
    "hard negatives 2010.04592 Sec. 3, beta 2.5": Case(
        "hard_negative_nt_xent", "a b", "cosine", options={"tau_plus": 0.02, "beta": 2.5}
    ),
    "temperature-free 2501.17683, one view": Case("temperature_free_info_nce", "a b", "cosine"),
    "temperature-free 2501.17683, both views": Case("temperature_free_nt_xent", "a b", "cosine"),
    "SupCon 2004.11362 Eq. 2 out": Case("sup_con", "z labels", "cosine", sharp=T),
    "SupCon 2004.11362 Eq. 3 in": Case(
        "sup_con", "z labels", "cosine", options={"form": "in", "temperature": 0.3}, sharp=T
    ),
    "MoCo v3 2104.02057 Eq. 1": Case("moco_v3", "a k", "cosine", stopped="k", sharp=T),
    "MoCo v3 2104.02057 Eq. 1, temperature 0.2": Case(
        "moco_v3", "a k", "cosine", stopped="k", options={"temperature": 0.2}
    ),
    "NNCLR 2104.14548 Sec. 3.2": Case("nn_info_nce", "z p bank", "cosine", stopped="z", sharp=T),
    "BYOL 2006.07733 Eq. 2": Case("byol", "p t", "cosine", stopped="t"),
    "SimSiam 2011.10566 Eq. 1": Case("negative_cosine", "p t", "cosine", stopped="t"),
    "Barlow Twins 2103.03230 Eq. 1, 2": Case("barlow_twins", "a b", "columns"),
    "Barlow Twins 2103.03230 Eq. 1, 2, redundant": Case(
        "barlow_twins", "a b", "columns", options={"redundancy": 2.0}
    ),
    "VICReg 2105.04906 Eq. 1 to 6": Case("vicreg", "a b", "columns"),
    "VICReg 2105.04906 Eq. 1 to 6, other weights": Case(
        "vicreg",
        "a b",
        "columns",
        options={"invariance": 1.0, "variance": 3.0, "covariance": 7.0},
    ),
    "SwAV 2006.09882 Eq. 2": Case(
        "swapped_prediction", "a b c q1 q2", "logits", stopped="q1 q2", sharp=T, lists=(3, 2)
    ),
    "DINO 2104.14294 Eq. 1 to 3": Case(
        "dino",
        "a b c t1 t2 center",
        "logits",
        stopped="t1 t2",
        options={"student_temperature": 0.4, "teacher_temperature": 0.2},
        sharp={"student_temperature": 0.01, "teacher_temperature": 0.01},
        lists=(3, 2),
    ),
}


def cases(*sorts: str, where: Callable[[Case], bool] = bool) -> pytest.MarkDecorator:
    """Go through all losses, or those of some sorts, as `case`; the ids say paper and equation."""
    chosen = {k: c for k, c in CASES.items() if where(c) and (not sorts or c.sort in sorts)}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())
