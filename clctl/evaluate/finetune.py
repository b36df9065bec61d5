"""Fine-tuning: a copy of the encoder and a linear head, trained with labels.

AdamW, with rates that fall from the head to the input.
Source: Bao et al. 2022, "BEiT", arXiv:2106.08254, App. H; He et al. 2022, "MAE",
arXiv:2111.06377, App. A.1 and, for the last blocks only, Sec. 4.3.
Differs: the rate is AdamW's own, whatever the batch, and gradients are clipped.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from clctl.console import Exit, Problem
from clctl.evaluate.blocks import blocks
from clctl.evaluate.features import frozen
from clctl.method import Clock, Encoder
from clctl.nn.narrow import guard_strides
from clctl.optim import factor
from clctl.recipe.sections import Schedule
from clctl.rng import seed_of, seeded

STD = 0.01  # of the head's fresh weights, as of the papers' linear probes
FETCH = 50  # steps between two looks at whether the loss is finite
TOKENS = ("cls_token", "pos_embed")  # of clctl's own transformers; timm's models name theirs


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to train.

    Attributes:
        lr: Highest rate of the head, > 0, for any batch.
        layer_decay: Rate of each block over that of the next, in (0, 1].
        weight_decay: Of weight matrices, >= 0; biases, norms, tokens and positions have none.
        blocks: How many of the last blocks are trained beside the head; None trains them all.
        warmup: Share of the steps in which the rate rises, in [0, 1); then half a cosine to 0.
        label_smoothing: In [0, 1).
        clip_norm: Largest norm of all gradients together, > 0, or None.
    """

    lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    blocks: int | None = None
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        in_range = {
            "lr": 0 < self.lr < math.inf,
            "layer_decay": 0 < self.layer_decay <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "blocks": self.blocks is None or self.blocks >= 0,
            "warmup": 0 <= self.warmup < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "clip_norm": self.clip_norm is None or self.clip_norm > 0,
        }
        for name, holds in in_range.items():
            if not holds:
                raise ValueError(f"{name} cannot be {getattr(self, name)}")


class Tuned(nn.Module):
    """An encoder and a linear head: images [B, 3, s, s] to logits [B, classes]."""

    def __init__(self, encoder: Encoder, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        with seeded(seed, "finetune", "head"):
            self.head = nn.Linear(encoder.width, classes)
            nn.init.normal_(self.head.weight, std=STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def finetune(
    encoder: Encoder,
    classes: int,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    tuning: Tuning,
    *,
    seed: int,
    device: torch.device,
    amp: torch.dtype | None = None,
    tick: Callable[[int, Tensor], None] = lambda done, loss: None,
) -> Tuned:
    """Train a copy of `encoder` and a fresh head; `encoder` itself stays as it is.

    Args:
        batches: Step -> images float [B, 3, s, s] and labels int64 [B] in [0, classes), both on
            `device`; a pure function of the step.
        amp: Type of autocast, or None for float32.
        tick: Called after every step with the steps done and its loss, float32 [], on the device.

    Returns:
        The copy and its head on `device`, in eval mode. Blocks that `tuning` leaves out were in
        eval mode throughout: their batch-norm statistics are those of `encoder`.

    Raises:
        ValueError: There is no step or class, the encoder has fewer blocks than are to be
            trained, or it is not known which it has.
        Problem: Exit.NUMERICS if a loss or a gradient was not finite.
    """
    if steps < 1 or classes < 1:
        raise ValueError(f"cannot train {classes} classes for {steps} steps")
    tuned = Tuned(copy.deepcopy(encoder), classes, seed).to(device)
    if device.type == "cpu":
        guard_strides(tuned)
    optimizer = AdamW(_groups(tuned, tuning), lr=0.0, foreach=True)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    _enter_training(tuned)
    schedule = Schedule(warmup=tuning.warmup)
    clip = math.inf if tuning.clip_norm is None else tuning.clip_norm
    finite = torch.ones((), dtype=torch.bool, device=device)
    for step in range(steps):
        x, y = batches(step)
        torch.manual_seed(seed_of(seed, "finetune", step))  # dropout and the like
        share = factor(schedule, Clock(step, steps, steps, device, seed))
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = tuned(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=tuning.label_smoothing)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        finite = finite & torch.isfinite(loss.detach()) & torch.isfinite(norm)
        tick(step + 1, loss.detach())
        if ((step + 1) % FETCH == 0 or step + 1 == steps) and not finite.item():
            raise Problem(
                f"the loss of fine-tuning is not finite at or before step {step + 1}",
                Exit.NUMERICS,
                "finetune.not-finite",
                f"take a learning rate below {tuning.lr:g}, or train fewer of the last blocks",
            )
    return tuned.eval()


def probabilities(tuned: Tuned, chunks: Iterable[Tensor]) -> Tensor:
    """Probabilities of the classes, float32 [M, classes] on the CPU; rows sum to 1.

    Args:
        chunks: Images float [m, 3, s, s], on the device of `tuned`; M is the sum of all m.

    Raises:
        ValueError: If there is no chunk.
    """
    with frozen(tuned):
        parts = [tuned(x).float().softmax(dim=1).cpu() for x in chunks]
    if not parts:
        raise ValueError("no image to give probabilities for")
    return torch.cat(parts)


def _groups(tuned: Tuned, tuning: Tuning) -> list[dict[str, Any]]:
    """Groups of AdamW with their `peak` rates; parameters of blocks left out become fixed."""
    every = blocks(tuned.encoder)
    count = len(every) if tuning.blocks is None else tuning.blocks
    if count > len(every):
        raise ValueError(f"cannot train the last {count} of {len(every)} blocks")
    for _, parameters in every[: len(every) - count]:
        for p in parameters:
            p.requires_grad_(False)
    spared = _spared(tuned)
    parts = [parameters for _, parameters in every] + [[*tuned.head.parameters()]]
    groups = []
    for distance, parameters in enumerate(reversed(parts)):
        peak = tuning.lr * tuning.layer_decay**distance
        for decayed in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (id(p) in spared) != decayed]
            decay = tuning.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "peak": peak, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def _spared(tuned: Tuned) -> set[int]:
    """Parameters without weight decay, by id: vectors, tokens and positions."""
    named = getattr(tuned.encoder, "no_weight_decay", lambda: TOKENS)()  # timm's may be patterns
    spared = [p for n, p in tuned.encoder.named_parameters() if any(fnmatch(n, w) for w in named)]
    return {id(p) for p in [*spared, *(p for p in tuned.parameters() if p.dim() <= 1)]}


def _enter_training(tuned: Tuned) -> None:
    """Training mode, but for modules whose parameters are all fixed."""
    tuned.train()
    for module in tuned.modules():
        parameters = [*module.parameters()]
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
