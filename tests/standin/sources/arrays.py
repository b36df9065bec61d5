"""Stand-in for data at a path."""

from pathlib import Path
from typing import Literal

from clctl.recipe.section import Count, Section


class Config(Section):
    name: Literal["arrays"] = "arrays"
    path: Path
    side: Count = 96
