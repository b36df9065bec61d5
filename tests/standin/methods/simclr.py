"""Stand-in for a method with a required key and a union."""

from typing import Annotated, Literal

from pydantic import Field

from clctl.recipe.section import Count, Positive, Section


class Config(Section):
    name: Literal["simclr"] = "simclr"
    temperature: Positive
    projector: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 16)
    queue: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
