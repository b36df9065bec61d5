"""Weights of an encoder as one safetensors file that says where they come from."""

from pathlib import Path
from typing import TYPE_CHECKING

from clctl.console import Exit, Problem
from clctl.export._subject import Subject, claim
from clctl.store import files, tensors
from clctl.store.reference import KEY

if TYPE_CHECKING:
    from torch import Tensor


def save(path: Path, subject: Subject, prefix: str = "") -> None:
    """Write the encoder's tensors, each name behind `prefix` and a dot where there is one."""
    claim(path, ours=_ours(path))
    files.make(path.parent)
    start = f"{prefix}." if prefix else ""
    state: dict[str, Tensor] = subject.encoder.state_dict()
    named = {start + name: tensor for name, tensor in state.items()}
    tensors.write(path, named, subject.metadata(evaluated=prefix))


def _ours(path: Path) -> bool:
    try:
        return KEY in tensors.header(path).metadata
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        return False
