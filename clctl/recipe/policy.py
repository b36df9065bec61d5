"""The sections of `views`: what is drawn for each view of an image."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from clctl.recipe.section import Conflict, Count, Positive, Section, Share


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
    mean, std: normalisation of each channel, in units of full white;
    color: exact does jitter and grayscale one operation after the other, as torchvision; fused
    does the same, on CUDA in one kernel that differs in the last digits, elsewhere by exact's own
    code; matrix makes them one linear map per view, from the same draws, in less time. There a
    shift of hue is approximate and values are clamped once, not after each operation, which on
    photographs is one level of 255 on average.
    """

    size: Annotated[int, Field(ge=4)]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    color: Literal["exact", "fused", "matrix"] = "exact"
    groups: Annotated[tuple[ViewGroup, ...], Field(min_length=1)]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels, in the order in which they reach the method."""
        return tuple(group.size or self.size for group in self.groups for _ in range(group.count))

    @property
    def count(self) -> int:
        """Views of one image."""
        return len(self.sizes)

    def unlike(self, method: str) -> Iterable[Conflict]:
        """The conflict of a method whose first two views differ in size."""
        if len(set(self.sizes[:2])) > 1:
            yield Conflict(
                "views.groups",
                f"the first two views of {method} must be of one size, "
                f"and are of {self.sizes[0]} and {self.sizes[1]} pixels",
                "write the group of the two large views first, with count 2",
            )
