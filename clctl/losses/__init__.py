"""Losses of self-supervised learning: pure functions on tensors, for anybody's own loop.

Rows are samples, losses are means over rows, logarithms are natural, and every loss here
normalises the rows itself.
"""

from clctl.losses.byol import byol
from clctl.losses.nt_xent import nt_xent

__all__ = ["byol", "nt_xent"]
