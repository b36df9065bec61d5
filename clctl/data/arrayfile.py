"""Images, labels and class names from one .npz or .safetensors file. Nothing is unpickled."""

import io
import json
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data.mapped import mapped
from clctl.store import tensors

SUFFIXES = (".npz", ".safetensors")
HEADER = 10_240  # bytes; numpy itself takes no more than 10,000 and what stands before them
LARGE, FACTOR = 1 << 28, 200  # bytes of an array, and how far no pictures can be packed
WANTED = "images uint8 [N, H, W, C] with C 1 or 3, or [N, H, W]"


@dataclass(frozen=True)
class Arrays:
    """One file.

    Attributes:
        images: uint8 [N, H, W, C]; mapped from the file where it is not compressed.
        labels: int64 [N] as in the file, or None.
        classes: Class names, or None.
    """

    images: Tensor
    labels: np.ndarray | None
    classes: tuple[str, ...] | None


def read(path: Path) -> Arrays:
    """Read a file by its suffix and check what is in it.

    Raises:
        Problem: If the file is damaged, or holds something else; with what was found and wanted.
    """
    with telling(path, f"the file should hold {WANTED}, and if you like labels and classes"):
        images, labels, classes = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    images = _images(path, images)
    return Arrays(images, _labels(path, labels, len(images)), _classes(path, classes))


@contextmanager
def telling(path: Path, wanted: str) -> Generator[None]:
    """Tell whatever reading a damaged or hostile file raises as a Problem."""
    try:
        yield
    except Problem as error:
        if error.exit == Exit.DATA:
            raise
        raise Problem(error.message, Exit.DATA, "data.unreadable-file", wanted) from error
    except MemoryError as error:
        raise Problem(
            f"{path} does not fit into memory: {error}",
            Exit.RESOURCES,
            "memory.out",
            "save uint8 images with np.savez, which is not compressed and read where it lies",
        ) from error
    # What zipfile, numpy and torch raise on damaged members, passwords and odd types.
    except (
        *(OSError, EOFError, zipfile.BadZipFile, SafetensorError, zlib.error, lzma.LZMAError),
        *(ValueError, TypeError, ArithmeticError, RuntimeError, struct.error),
    ) as error:
        reason = " ".join(str(error).split())
        code = "data.unreadable-file"
        raise Problem(f"{path} cannot be read: {reason}", Exit.DATA, code, wanted) from error


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a .npz by name.

    Raises:
        ValueError: If one is there twice, as then two readers may read two things.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = info
    return found


def is_text(name: str) -> bool:
    """Whether a name is whole Unicode: halves of surrogate pairs can be neither shown nor saved."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(path: Path, what: str, code: str, suggestion: str | None = None) -> Problem:
    """A problem with this file."""
    wanted = suggestion or f"the file should hold {WANTED}, and if you like labels and classes"
    return Problem(f"{path} {what}", Exit.DATA, code, wanted)


def _images(path: Path, images: Tensor | None) -> Tensor:
    if images is None:
        raise problem(path, "holds no array called images", "data.no-images")
    found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise problem(path, f"has images {found}; {WANTED} is wanted", "data.wrong-images")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        hint = None
        if images.shape[1] in (1, 3):
            hint = "channels come last: save images.transpose(0, 2, 3, 1)"
        raise problem(path, f"has images {found}; {WANTED} is wanted", "data.wrong-images", hint)
    if 0 in images.shape:
        raise problem(path, f"has images {found}, which is empty", "data.wrong-images")
    return images


def _labels(path: Path, labels: np.ndarray | None, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise problem(
            path, f"has labels {found}; whole numbers [{count}] are wanted", "data.wrong-labels"
        )
    if labels.dtype == np.uint64 and count and labels.max() > np.iinfo(np.int64).max:
        raise problem(path, "has labels beyond 64 signed bits", "data.wrong-labels")
    return labels.astype(np.int64)


def _classes(path: Path, classes: object) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if not isinstance(names, list) or not all(
        isinstance(name, str) and is_text(name) for name in names
    ):
        raise problem(path, "has classes that are no list of text", "data.wrong-classes")
    if len(set(names)) < len(names):
        raise problem(path, "names a class twice", "data.wrong-classes")
    return tuple(names)


def _safetensors(path: Path) -> tuple[Tensor | None, np.ndarray | None, object]:
    tensors.header(path)  # stricter than the library: no key twice, no header without end
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        images = file.get_tensor("images") if "images" in names else None
        labels = file.get_tensor("labels").numpy() if "labels" in names else None
        listed = (file.metadata() or {}).get("classes")
    return images, labels, None if listed is None else json.loads(listed)


def _npz(path: Path) -> tuple[Tensor | None, np.ndarray | None, object]:
    with zipfile.ZipFile(path) as archive:
        there = members(archive)
        images = _pixels(path, archive, there["images"]) if "images" in there else None
        labels, classes = (
            array(archive, there[name]) if name in there else None for name in ("labels", "classes")
        )
    return images, labels, classes


def array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of a .npz.

    Raises:
        ValueError: If it holds Python objects, its length is another than its header says, or it
            unpacks to so much more than it takes that it is made to fill the memory.
    """
    with archive.open(info) as stream:
        _header(stream, info.file_size, info.filename)
    if info.file_size > max(LARGE, FACTOR * info.compress_size):
        raise ValueError(
            f"{info.filename} would unpack from {info.compress_size:,} to {info.file_size:,} bytes"
        )
    with archive.open(info) as stream:
        return npy.read_array(stream, allow_pickle=False)


def plain(path: Path) -> np.ndarray:
    """The array of a .npy.

    Raises:
        ValueError: As `array` does.
    """
    with open(path, "rb") as stream:
        _header(stream, os.fstat(stream.fileno()).st_size, path.name)
        stream.seek(0)
        return npy.read_array(stream, allow_pickle=False)


def _pixels(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    with archive.open(info) as stream:
        shape, fortran, dtype, start = _header(stream, info.file_size, info.filename)
    if dtype != np.uint8:
        raise problem(
            path, f"has images {dtype} {list(shape)}; {WANTED} is wanted", "data.wrong-images"
        )
    if info.compress_type != zipfile.ZIP_STORED or fortran:
        return torch.from_numpy(np.ascontiguousarray(array(archive, info)))
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # the local header may differ from the central one
        name, extra = struct.unpack("<HH", file.read(4))
    member = mapped(path, (info.file_size,), info.header_offset + 30 + name + extra)
    if zlib.crc32(member.numpy().data) != info.CRC:
        raise zipfile.BadZipFile("the checksum of images does not match")
    return member[start:].reshape(shape)


def _header(stream: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, column order, type and length of the header of an array; refuses what does not add up."""
    stream = io.BytesIO(stream.read(HEADER))  # a length that it names is not taken at its word
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of an unknown version {version}")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = reader(stream)
    except Exception as error:  # Python's own parsers read it: TokenError, even MemoryError
        raise ValueError(f"{name} has no header that can be read: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read")
    if not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise ValueError(f"{name} has no valid shape")
    if stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} is of another length than its header says")
    return shape, fortran, dtype, stream.tell()
