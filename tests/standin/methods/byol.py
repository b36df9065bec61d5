"""Stand-in for a method with a momentum."""

from typing import Annotated, Literal

from pydantic import Field

from clctl.recipe.section import Count, Section


class Config(Section):
    name: Literal["byol"] = "byol"
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    projector: tuple[Count, Count] = (64, 16)
