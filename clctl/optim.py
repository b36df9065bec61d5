"""Optimizers, the learning rate as a function of the clock, and optimizer state by name."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from clctl.method import Clock, Method
from clctl.recipe import sections


class LARS(Optimizer):
    """SGD with momentum whose rate is adapted to each weight matrix.

        g <- (g + wd w) * local,   local = eta |w| / (|g| + wd |w|)
        v <- momentum v + g,       w <- w - lr v

    with `clip`, local = min(eta |w| / (|g| + wd |w|) / lr, 1). Groups whose `adapt` is false are
    neither decayed nor adapted; for a tensor whose weight or gradient is zero, local = 1.

    Source: You et al. 2017, arXiv:1708.03888, Alg. 1; exclusions and clipping as in the recipes
    of SimCLR (arXiv:2002.05709) and BYOL (arXiv:2006.07733).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        weight_decay: float,
        eta: float,
        clip: bool,
    ) -> None:
        defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(groups, {**defaults, "eta": eta, "clip": clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not taken."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if not pairs:
                continue
            weights, grads = [p for p, _ in pairs], [g for _, g in pairs]
            if group["adapt"]:
                grads = self._adapted(weights, grads, group)
            for p in weights:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            velocity = [self.state[p]["momentum_buffer"] for p in weights]
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, grads)
            torch._foreach_add_(weights, velocity, alpha=-group["lr"])

    @staticmethod
    def _adapted(weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        decay = group["weight_decay"]
        size = torch.stack(torch._foreach_norm(weights))
        slope = torch.stack(torch._foreach_norm(grads))
        local = group["eta"] * size / (slope + decay * size)
        if group["clip"]:
            local = (local / group["lr"]).clamp(max=1) if group["lr"] > 0 else local.clamp(max=1)
        local = torch.where((size > 0) & (slope > 0), local, 1.0)
        decayed = torch._foreach_add(grads, weights, alpha=decay)
        return list(torch._foreach_mul(decayed, list(local.unbind())))


def build(config: sections.LARS | sections.SGD | sections.AdamW, method: Method) -> Optimizer:
    """The optimizer of a recipe over the method's groups; the engine sets each step's rate."""
    groups = [g for g in method.groups() if g["params"]]
    decay = config.weight_decay
    if isinstance(config, sections.LARS):
        return LARS(
            groups,
            momentum=config.momentum,
            weight_decay=decay,
            eta=config.eta,
            clip=config.clip,
        )
    for group in groups:
        group["weight_decay"] = decay if group["adapt"] else 0.0
    if isinstance(config, sections.SGD):
        nesterov = config.nesterov
        return SGD(groups, lr=0.0, momentum=config.momentum, nesterov=nesterov, foreach=True)
    return AdamW(groups, lr=0.0, betas=config.betas, foreach=True)


def peak(config: sections.LARS | sections.SGD | sections.AdamW, batch: int) -> float:
    """The highest learning rate of a run: `lr` is per 256 images of the global batch."""
    return config.lr * batch / 256


def factor(schedule: sections.Schedule, clock: Clock) -> float:
    """Learning rate over its peak, in [0, 1]: linear warmup, then half a cosine to `final`."""
    warmup = schedule.warmup * clock.total
    if clock.step < warmup:
        return (clock.step + 1) / (warmup + 1)
    done = (clock.step - warmup) / max(clock.total - warmup, 1)
    return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2


def decay(
    config: sections.LARS | sections.SGD | sections.AdamW, schedule: sections.Schedule
) -> Callable[[Clock], float] | None:
    """Weight decay as a function of the clock, half a cosine; None where it stays as it is."""
    start, end = config.weight_decay, schedule.weight_decay
    if end is None:
        return None
    return lambda clock: (
        end + (start - end) * (1 + math.cos(math.pi * clock.step / clock.total)) / 2
    )


def tensors(optimizer: Optimizer, method: Method) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: {"momentum_buffer.encoder.conv1.weight": ...}."""
    names = {id(p): name for name, p in method.named_parameters()}
    return {
        f"{slot}.{names[id(p)]}": value
        for p, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def restore(optimizer: Optimizer, method: Method, saved: dict[str, Tensor]) -> None:
    """Put back what `tensors` gave.

    Raises:
        KeyError: If a name is not one of a parameter that this optimizer moves.
    """
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {n: p for n, p in method.named_parameters() if id(p) in moved}
    for key, value in saved.items():
        slot, name = key.split(".", 1)
        p = parameters[name]
        # AdamW counts its steps on the CPU, all else lives with the parameter.
        state = value.clone() if slot == "step" else torch.empty_like(p).copy_(value)
        optimizer.state[p][slot] = state
