"""What every section of a recipe is, and how two sections can contradict each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from clctl.recipe.sections import Recipe

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]  # of layers, output last
# Of an encoder, to start from: a word, or a file.
Weights = Annotated[str, Field(pattern=r"^(imagenet|.+\.safetensors)$")]


@dataclass(frozen=True)
class Conflict:
    """Values that are right alone and impossible together.

    Attributes:
        path: The value to blame, such as "views.groups[1].size".
        message: What is wrong, with the numbers.
        suggestion: What to write instead.
    """

    path: str
    message: str
    suggestion: str


class Section(BaseModel):
    """One section: frozen, no unknown keys, no silent conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """What of this section cannot work with the rest of the recipe."""
        return ()


@dataclass(frozen=True)
class Plugin:
    """Marks a section whose `name` picks a module of `package` that holds a `Config`."""

    package: str
