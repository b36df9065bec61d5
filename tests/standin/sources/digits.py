"""Stand-in for the embedded data."""

from typing import Literal

from clctl.recipe.section import Section


class Config(Section):
    name: Literal["digits"] = "digits"
