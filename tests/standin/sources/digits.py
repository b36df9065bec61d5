"""Stand-in for the embedded data."""

from typing import Literal

from clctl.recipe.sections import Section


class Config(Section):
    name: Literal["digits"] = "digits"
