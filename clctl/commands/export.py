"""clctl export: hand the encoder to another tool, and prove that it computes the same there."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clctl.commands import _setup
from clctl.commands._trained import Trained, open_checkpoint
from clctl.console import Exit, Talk
from clctl.data.open import load, trial

from clctl.recipe.saved import with_data
from clctl.report.document import Report

TOLERANCE = 1e-3  # of features, relative to their largest value
PICTURES = 8


@dataclass(frozen=True)
class Order:
    """What was typed."""

    ckpt: str
    to: str
    verify: bool = False
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    out: Path | None = None


def export(order: Order, talk: Talk) -> Report:
    """Write the encoder for another tool; with `verify`, compare both sides on pictures."""
    raise NotImplementedError
