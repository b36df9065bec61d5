"""The sections of a recipe that every run has. No torch here: recipes are read before it loads.

Open sections (`data`, `encoder`, `method`) carry a `name`, which picks a module of one package,
and that module's `Config` gives the remaining keys (see `Plugin`).
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from clctl.recipe.plugins import known
from clctl.recipe.policy import Views
from clctl.recipe.section import Conflict, Count, Plugin, Positive, Section, Share


class Objective(Section):
    """What the sections of all methods share: which views and labels they need.

    Attributes:
        least, most: Number of views of an image; most is None where there is no limit.
    """

    least: ClassVar[int] = 2
    most: ClassVar[int | None] = 2

    @property
    def supervised(self) -> bool:
        """Whether this method learns from labels."""
        return False

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """The views and labels of the recipe against those that the method needs."""
        made, name = recipe.views.count, recipe.method.name
        if made < self.least or (self.most is not None and made > self.most):
            wanted = f"{self.least} or more" if self.most is None else f"{self.least}"
            wanted += " view" if wanted == "1" else " views"
            yield Conflict(
                "views.groups",
                f"method {name} takes {wanted} of an image, views.groups make {made}",
                f"let the counts of views.groups add up to {wanted}",
            )
        if self.supervised and getattr(recipe.data, "labels", None) == "none":
            yield Conflict(
                "data.labels",
                f"method {name} learns from labels, and data.labels is none",
                "leave out data.labels, or take another method: clctl list methods",
            )


class Train(Section):
    """batch_size is the global batch; an epoch has floor(images / batch_size) steps.

    precision: auto is bf16 on CUDA and fp32 on a processor, unless its flags say that bf16 pays.
    compile: forward and backward through torch.compile, on CUDA with CUDA graphs. Results differ
    in the last digits; the first step takes up to a minute or two.
    """

    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False


class LARS(Section):
    """Layer-wise adaptive SGD. lr is per 256 images.

    eta: trust coefficient; clip: the local rate never exceeds lr itself;
    biases and norms are neither decayed nor adapted.
    """

    name: Literal["lars"] = "lars"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    eta: Positive = 0.001
    clip: bool = False


class SGD(Section):
    """SGD with momentum. lr is per 256 images; biases and norms are not decayed.

    clip_norm: largest norm of the gradient of all weights together, null for no limit.
    """

    name: Literal["sgd"] = "sgd"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: Positive | None = None


class AdamW(Section):
    """AdamW. lr is per 256 images; biases and norms are not decayed.

    clip_norm: largest norm of the gradient of all weights together, null for no limit.
    """

    name: Literal["adamw"] = "adamw"
    lr: Positive
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Positive | None = None


class Schedule(Section):
    """Linear warmup over a share of the run, then half a cosine down to `final` of the peak.

    weight_decay: where the weight decay ends, on half a cosine from the optimizer's; null stays.
    """

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    final: Share = 0.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Checkpoint(Section):
    """A checkpoint every N steps or minutes, whichever comes first, and at the last step.

    keep: how many of the newest stay on disk; keep_every: steps, at each multiple of which there
    is a checkpoint as well that stays for good.
    """

    every_steps: Count | None = None
    every_minutes: Positive = 10.0
    keep: Count = 3
    keep_every: Count | None = None


class Report(Section):
    """log_every: steps between lines of metrics.jsonl; knn_every: epochs between online scores.

    tensorboard: also write the log for TensorBoard, into the run's folder;
    sinks: further files of clctl/report/sinks that take the log, by their names.
    """

    log_every: Count = 10
    knn_every: Count = 5
    tensorboard: bool = False
    sinks: tuple[str, ...] = ()

    @property
    def takers(self) -> tuple[str, ...]:
        """The sinks that are asked for, each once."""
        return tuple(dict.fromkeys(("tensorboard",) * self.tensorboard + self.sinks))

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """Sinks that are not there."""
        there = known("clctl.report.sinks")
        for index, name in enumerate(self.sinks):
            if name not in there:
                yield Conflict(
                    f"report.sinks[{index}]",
                    f"there is no sink {name}; there are {', '.join(there)}",
                    f"write it as clctl/report/sinks/{name}.py, or leave it out",
                )


class Guard(Section):
    """Against collapse: armed after warmup, judged at every line of the log.

    patience: lines in a row with one and the same sign of collapse before the run stops;
    action: stop (exit 7), or only warn.
    """

    patience: Count = 5
    action: Literal["stop", "warn"] = "stop"


class Recipe(Section):
    """A whole recipe. Everything but the weights is a pure function of it and the step."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    data: Annotated[SerializeAsAny[Any], Plugin("clctl.data.sources")]
    encoder: Annotated[SerializeAsAny[Any], Plugin("clctl.encoders")]
    method: Annotated[SerializeAsAny[Any], Plugin("clctl.methods")]
    views: Views
    train: Train = Train()
    optimizer: Annotated[LARS | SGD | AdamW, Field(discriminator="name")]
    schedule: Schedule = Schedule()
    guard: Guard = Guard()
    checkpoint: Checkpoint = Checkpoint()
    report: Report = Report()
