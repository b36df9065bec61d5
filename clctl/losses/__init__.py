"""Losses of self-supervised learning: pure functions on tensors, for anybody's own loop.

Rows are samples, losses are means over rows, and logarithms are natural. A loss of cosines
normalises the rows itself; one of distances, dot products, columns or logits takes them as given.
In a process group every loss has the gradient of the whole batch once DDP has averaged it.
"""

from clctl.losses.barlow_twins import barlow_twins
from clctl.losses.byol import byol
from clctl.losses.dino import dino, update_center
from clctl.losses.hard_negative import debiased_nt_xent, hard_negative_nt_xent
from clctl.losses.info_nce import info_nce
from clctl.losses.moco_v3 import moco_v3
from clctl.losses.n_pair import n_pair
from clctl.losses.negative_cosine import negative_cosine
from clctl.losses.nn_info_nce import nn_info_nce
from clctl.losses.nt_xent import nt_xent
from clctl.losses.pairwise_contrastive import pairwise_contrastive
from clctl.losses.sup_con import sup_con
from clctl.losses.swav import sinkhorn, swapped_prediction
from clctl.losses.temperature_free import temperature_free_info_nce, temperature_free_nt_xent
from clctl.losses.triplet import mined_triplet, triplet
from clctl.losses.vicreg import vicreg

__all__ = [
    "barlow_twins",
    "byol",
    "debiased_nt_xent",
    "dino",
    "hard_negative_nt_xent",
    "info_nce",
    "mined_triplet",
    "moco_v3",
    "n_pair",
    "negative_cosine",
    "nn_info_nce",
    "nt_xent",
    "pairwise_contrastive",
    "sinkhorn",
    "sup_con",
    "swapped_prediction",
    "temperature_free_info_nce",
    "temperature_free_nt_xent",
    "triplet",
    "update_center",
    "vicreg",
]
