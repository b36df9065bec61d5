"""The sections of a recipe that every run has. No torch here: recipes are read before it loads.

Open sections (`data`, `encoder`, `method`) carry a `name`, which picks a module of one package,
and that module's `Config` gives the remaining keys (see `Plugin`).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """One section: frozen, no unknown keys, no silent conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Plugin:
    """Marks a section whose `name` picks a module of `package` that holds a `Config`."""

    package: str


class Crop(Section):
    """Random resized crop. scale: share of the area; ratio: width over height."""

    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> "Crop":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be [low, high] with 0 < low <= high <= 1")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError("ratio must be [low, high] with low <= high")
        return self


class Affine(Section):
    """Random shift, rotation and scale about the centre of the view; bare corners are black.

    shift: largest shift as a share of the side; rotate: largest angle in degrees;
    scale: smallest and largest factor; p: share of the images that are moved.
    """

    p: Share = 1.0
    shift: Share = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: tuple[Positive, Positive] = (1.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> "Affine":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [low, high] with low <= high")
        return self


class Jitter(Section):
    """Colour jitter in random order: strengths as in torchvision's ColorJitter."""

    p: Share = 0.8
    brightness: Annotated[float, Field(ge=0)] = 0.4
    contrast: Annotated[float, Field(ge=0)] = 0.4
    saturation: Annotated[float, Field(ge=0)] = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class Blur(Section):
    """Gaussian blur. sigma: range in pixels; kernel: odd width, null for a tenth of the side."""

    p: Share = 0.5
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    kernel: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _odd(self) -> "Blur":
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ValueError("kernel must be odd")
        if self.sigma[0] > self.sigma[1]:
            raise ValueError("sigma must be [low, high] with low <= high")
        return self


class Solarize(Section):
    """Invert what is at or above `threshold`, in units of full white."""

    p: Share = 0.2
    threshold: Share = 0.5


class ViewGroup(Section):
    """`count` views drawn alike. Left-out operations do not happen; order is as written here.

    size: side of these views in pixels, null for the policy's (multi-crop has small ones).
    hflip, vflip, grayscale: share of the images.
    """

    count: Count = 1
    size: Annotated[int, Field(ge=4)] | None = None
    crop: Crop | None = None
    affine: Affine | None = None
    hflip: Share = 0.0
    vflip: Share = 0.0
    jitter: Jitter | None = None
    grayscale: Share = 0.0
    blur: Blur | None = None
    solarize: Solarize | None = None


class Views(Section):
    """How views are made from an image, and how an image is prepared for evaluation.

    size: side of a view in pixels; evaluation takes the centre square, resized to it.
    mean, std: normalisation of each channel, in units of full white.
    """

    size: Annotated[int, Field(ge=4)]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    groups: Annotated[tuple[ViewGroup, ...], Field(min_length=1)]

    @property
    def count(self) -> int:
        """Views of one image."""
        return sum(group.count for group in self.groups)


class Train(Section):
    """batch_size is the global batch; an epoch has floor(images / batch_size) steps.

    precision: auto is bf16 on CUDA and fp32 on a processor, unless its flags say that bf16 pays.
    """

    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    precision: Literal["auto", "fp32", "bf16"] = "auto"


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
    """SGD with momentum. lr is per 256 images; biases and norms are not decayed."""

    name: Literal["sgd"] = "sgd"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class AdamW(Section):
    """AdamW. lr is per 256 images; biases and norms are not decayed."""

    name: Literal["adamw"] = "adamw"
    lr: Positive
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class Schedule(Section):
    """Linear warmup over a share of the run, then half a cosine down to `final` of the peak."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    final: Share = 0.0


class Checkpoint(Section):
    """A checkpoint every N steps or minutes, whichever comes first, and at the last step.

    keep: how many of the newest stay on disk.
    """

    every_steps: Count | None = None
    every_minutes: Positive = 10.0
    keep: Count = 3


class Report(Section):
    """log_every: steps between lines of metrics.jsonl; knn_every: epochs between online scores."""

    log_every: Count = 10
    knn_every: Count = 5


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
    checkpoint: Checkpoint = Checkpoint()
    report: Report = Report()
