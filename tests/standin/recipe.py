"""A recipe over the stand-in packages, which load no torch, and a text that it accepts."""

from typing import Annotated, Any

from pydantic import SerializeAsAny

from clctl.recipe import sections
from clctl.recipe.section import Plugin

GOOD = """\
# A card in front.
seed: 3
data: {name: folder, path: pictures}
encoder: {name: small}
method:
  name: byol
  momentum: 0.9
views:
  size: 16
  groups:
    - count: 2
      crop: {scale: [0.5, 1], ratio: [1, 1]}
train:
  epochs: 2
optimizer:
  name: lars
  lr: 1e-3
"""


class Recipe(sections.Recipe):
    data: Annotated[SerializeAsAny[Any], Plugin("standin.sources")]
    encoder: Annotated[SerializeAsAny[Any], Plugin("standin.encoders")]
    method: Annotated[SerializeAsAny[Any], Plugin("standin.methods")]
