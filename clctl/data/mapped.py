"""Bytes of a file as a tensor, read when touched."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor


def mapped(path: Path | BinaryIO, shape: tuple[int, ...], offset: int = 0) -> Tensor:
    """uint8 tensor of `shape` over the file's bytes from `offset` on. Writing to it is a crash.

    Mapped for reading only: a writable private map counts as memory, and the system refuses
    one that is larger than what the machine has. Of an open file the mapping keeps a handle of
    its own, and with it the file's lock, until the last tensor over it is gone.
    """
    if 0 in shape:
        return torch.empty(shape, dtype=torch.uint8)
    array = np.memmap(path, np.uint8, "r", offset, shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
