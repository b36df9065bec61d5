"""Safetensors files: a writer that gives the same bytes every time, and a strict reader.

Source: the format in the README of github.com/huggingface/safetensors.
Differs: `save_file` of that library orders metadata at random, sets mode 0600 and does not sync,
so it is the reader here, not the writer. Stricter than its reader: no key twice, and a header of
at most 16 MiB.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeGuard, cast

from clctl.console import Exit, Problem
from clctl.store import documents, files, reading

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 16 << 20
MOST_DIMENSIONS = 64

# Name in the file: name in torch, bytes of an element.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "C64": ("complex64", 8),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_NAMES = {f"torch.{ours}": name for name, (ours, _) in DTYPES.items()}


class Entry(NamedTuple):
    """One tensor of a file, by its header: dtype as in `DTYPES`, shape, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself. tensors: in the order of their bytes."""

    metadata: dict[str, str]
    tensors: dict[str, Entry]


def write(
    path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str], more: int = 0
) -> str:
    """Write a file whose bytes depend on nothing but the arguments.

    Args:
        tensors: Of any shape and device, and any dtype of `DTYPES`; moved one at a time.
        more: Bytes that the caller writes next, counted when the disk is full.

    Returns:
        The sha256 of the file, in hex.

    Raises:
        Problem: Exit.RESOURCES if the disk does not take it.
        TypeError: If a tensor has a dtype that the format lacks.
    """
    # Widest elements first, so that every tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": _metadata(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        if str(tensor.dtype) not in _NAMES or name in header:
            raise TypeError(f"safetensors has no place for {name} of {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    ordered = [tensors[name] for name in names]
    return files.write(path, _stream(head, ordered), 8 + len(head) + end + more)


def header(path: Path) -> Header:
    """Read and check the header; the tensors stay on the disk, and torch is not needed.

    Raises:
        Problem: Exit.CHECKPOINT; code checkpoint.not-safetensors if the file is something else,
            checkpoint.damaged if it does not hold what its header says.
    """
    with reading.opened(path) as handle:
        size = os.fstat(handle).st_size
        start = reading.take(handle, 9)
        count = int.from_bytes(start[:8], "little")
        if size == 0:
            _damaged(path, "it is empty")
        if start[8:] != b"{" or not 2 <= count <= LARGEST_HEADER:
            raise Problem(
                f"{path} is not a safetensors file",
                Exit.CHECKPOINT,
                "checkpoint.not-safetensors",
                "name a run folder, a checkpoint folder or a .safetensors file of clctl; "
                "pickled .pt and .pth files are never opened",
            )
        raw = start[8:] + reading.take(handle, count - 1)
    try:
        if len(raw) < count:
            raise ValueError(f"it ends in its header, after {size:,} bytes")
        return _check(documents.parse(raw), size - 8 - count)
    except ValueError as error:
        _damaged(path, str(error))


def read(path: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors, on the CPU, and the metadata of a file.

    Raises:
        Problem: As `header` does.
    """
    found = header(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        return load_file(path), found.metadata
    except (SafetensorError, OSError) as error:
        _damaged(path, str(error))


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Sorted, with "format", and with names that are no text on this system as escapes."""
    entries = sorted({"format": "pt", **metadata}.items())
    return {key: value.encode(errors="backslashreplace").decode() for key, value in entries}


def _stream(head: bytes, tensors: list["Tensor"]) -> Iterator[bytes | memoryview]:
    import torch

    yield len(head).to_bytes(8, "little") + head
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _check(table: dict[str, Any], room: int) -> Header:
    """The header, if its tensors fill `room` bytes without holes or overlaps."""
    metadata = table.pop("__metadata__", {})
    if not _texts(metadata):
        raise ValueError("its metadata is not text")
    spans = sorted((*_span(name, value, room), name) for name, value in table.items())
    reached = 0
    for start, end, name in spans:
        if start != reached:
            raise ValueError(
                f"{'a hole' if start > reached else 'an overlap'} before {name[:80]!r}"
            )
        reached = end
    if reached != room:
        raise ValueError(f"its tensors take {reached:,} bytes, the file has {room:,}")
    found = {
        name: Entry(table[name]["dtype"], tuple(table[name]["shape"]), end - start)
        for start, end, name in spans
    }
    for text in (*found, *metadata, *metadata.values()):
        text.encode()  # half of a surrogate pair is a ValueError
    return Header(metadata, found)


def _span(name: str, value: Any, room: int) -> tuple[int, int]:
    """First byte of a tensor and the byte after its last, if its entry makes sense."""
    called = repr(name[:80])
    if not documents.is_object(value) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {called} is not one of a tensor")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{called} has the unknown dtype {str(dtype)[:20]!r}")
    # Torch multiplies the sides for its strides, also of a tensor that holds nothing.
    if (
        not _counts(shape)
        or len(shape) > MOST_DIMENSIONS
        or math.prod(side or 1 for side in shape) > 2**63 - 1
    ):
        raise ValueError(f"{called} has no valid shape")
    if not _counts(span) or len(span) != 2 or not span[0] <= span[1]:
        raise ValueError(f"{called} has no valid place")
    if span[1] > room:
        raise ValueError(f"{called} ends {span[1] - room:,} bytes behind the end")
    if span[1] - span[0] != math.prod(shape) * DTYPES[dtype][1]:
        raise ValueError(f"{called} of shape {shape} has {span[1] - span[0]:,} bytes")
    return span[0], span[1]


def _counts(value: Any) -> TypeGuard[list[int]]:
    if type(value) is not list:
        return False
    return all(type(item) is int and item >= 0 for item in cast("list[Any]", value))


def _texts(value: Any) -> TypeGuard[dict[str, str]]:
    return documents.is_object(value) and all(type(text) is str for text in value.values())


def _damaged(path: Path, reason: str) -> NoReturn:
    raise Problem(f"{path} is damaged: {reason}", Exit.CHECKPOINT, "checkpoint.damaged")
