"""Weights of an encoder as one safetensors file that says where they come from."""

from pathlib import Path
from typing import TYPE_CHECKING

from clctl.export._subject import Subject
from clctl.store import tensors

if TYPE_CHECKING:
    from torch import Tensor


def save(path: Path, subject: Subject, prefix: str = "") -> None:
    """Write the encoder's tensors, each name behind `prefix` and a dot where there is one."""
    start = f"{prefix}." if prefix else ""
    state: dict[str, Tensor] = subject.encoder.state_dict()
    named = {start + name: tensor for name, tensor in state.items()}
    tensors.write(path, named, subject.metadata(evaluated=prefix))
