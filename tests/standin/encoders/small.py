"""Stand-in for an encoder."""

from typing import Literal

from clctl.recipe.sections import Section


class Config(Section):
    name: Literal["small"] = "small"
    stem: Literal["auto", "imagenet", "small"] = "auto"
