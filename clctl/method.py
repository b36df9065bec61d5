"""What a self-supervised method is: modules, one loss, and what happens around a step."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Clock:
    """Where training stands. Every schedule in clctl is a pure function of a Clock.

    Attributes:
        step: Steps done, 0 at the first.
        total: Steps of the whole run.
        per_epoch: Steps of one epoch.
        device: Where `fraction` is put.
        seed: Of the run, for what a method draws itself: `generator(seed, purpose, step)`.
        fraction: Share of the run that is done, in [0, 1): float32 [], on the device. A tensor,
            so that compiled or captured code never freezes a schedule.
    """

    step: int
    total: int
    per_epoch: int
    device: torch.device | str = "cpu"
    seed: int = 0
    fraction: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made here, not when it is asked for: a number that compiled code makes a tensor of is a
        # new input of it at each step, and a captured graph is captured anew for each.
        done = torch.full((), self.step / self.total, device=self.device)
        object.__setattr__(self, "fraction", done)

    @property
    def epoch(self) -> float:
        """Epochs done, fractional."""
        return self.step / self.per_epoch


@dataclass(frozen=True)
class Scale:
    """The size of a run, which queues are cut to.

    Attributes:
        batch: Images of the global batch.
        images: Images of the training set; None where only the recipe is known.
    """

    batch: int
    images: int | None = None


@dataclass(frozen=True)
class Batch:
    """One batch as a method sees it.

    Attributes:
        views: One entry per view; images are float [B, C, h, w], where h and w may differ
            between views (multi-crop). Views of sample i sit at row i of every entry.
        labels: int64 [B], or None. Only supervised methods may read them.
    """

    views: tuple[Any, ...]
    labels: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What a method returns for one batch.

    Attributes:
        loss: float32 scalar to minimise, the mean over this rank's samples.
        watch: Detached tensors that the guard against collapse reads: "features" [B, width] of
            the encoder, "projections" [B, D], the vectors that the loss compares, and, where it
            compares distributions, "predictions" [B, K], rows sum to 1.
        metrics: Detached scalars of the method's own for the log.
        carry: Detached tensors that `after_step` needs (queue keys, teacher logits).
    """

    loss: Tensor
    watch: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)


def watched(features: Tensor, projections: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """`Step.watch`, detached."""
    found = {"features": features, "projections": projections, **more}
    return {name: value.detach() for name, value in found.items()}


class Encoder(nn.Module):
    """Maps one view [B, 3, h, w] to features [B, width]."""

    width: int


class Method(nn.Module):
    """Base of every method. Subclass directly; methods never subclass each other.

    State that must survive a restart is a parameter or a buffer, nothing else: the checkpoint
    is `state_dict()`. `forward` must not change such state (batch-norm statistics apart), so
    calling it twice on one batch gives one and the same loss.
    """

    encoder: Encoder
    evaluated: ClassVar[str] = "encoder"  # submodule that is scored and exported
    ideal: ClassVar[float | None] = None  # lowest loss, if giving all images one vector has it too
    uses_labels: bool = False  # the engine drops labels unless this is set
    per_class: int | None = None  # images of each class in a batch; None draws regardless of class

    def forward(self, batch: Batch, clock: Clock) -> Step:
        """Loss of one batch."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer.

        adapt: whether weight decay and LARS adaptation apply: not to biases and norms.
        scheduled: whether the learning rate follows the schedule.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.dim() > 1], "adapt": True, "scheduled": True},
            {"params": [p for p in trained if p.dim() <= 1], "adapt": False, "scheduled": True},
        ]

    def chance(self, batch: int) -> float | None:
        """The loss of an encoder that knows nothing, for a global batch of this size."""
        return None

    def facts(self) -> dict[str, Any]:
        """What was settled when the method was built, for the log."""
        return {}

    def before_step(self, clock: Clock) -> None:
        """Edit gradients between backward and the optimizer step. Default: nothing."""

    def after_step(self, step: Step, clock: Clock) -> None:
        """Update teachers, queues and centers once the optimizer has stepped. Default: nothing."""
