"""Images, labels and class names from one .npz or .safetensors file. Nothing is unpickled."""

import json
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data.mapped import mapped

SUFFIXES = (".npz", ".safetensors")
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
    try:
        images, labels, classes = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    except (OSError, zipfile.BadZipFile, SafetensorError) as error:
        raise problem(path, f"cannot be read: {error}", "data.unreadable-file") from error
    except (ValueError, TypeError, EOFError, RuntimeError, zlib.error, struct.error) as error:
        # What zipfile, numpy and torch raise on damaged members, passwords and odd types.
        raise problem(path, f"cannot be read: {error}", "data.unreadable-file") from error
    images = _images(path, images)
    return Arrays(images, _labels(path, labels, len(images)), _classes(path, classes))


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
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise problem(path, "has classes that are no list of text", "data.wrong-classes")
    if len(set(names)) < len(names):
        raise problem(path, "names a class twice", "data.wrong-classes")
    return tuple(names)


def _safetensors(path: Path) -> tuple[Tensor | None, np.ndarray | None, object]:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        images = file.get_tensor("images") if "images" in names else None
        labels = file.get_tensor("labels").numpy() if "labels" in names else None
        listed = (file.metadata() or {}).get("classes")
    return images, labels, None if listed is None else json.loads(listed)


def _npz(path: Path) -> tuple[Tensor | None, np.ndarray | None, object]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        images = _pixels(path, archive, members["images"]) if "images" in members else None
        labels, classes = (
            array(archive, members[name]) if name in members else None
            for name in ("labels", "classes")
        )
    return images, labels, classes


def array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of a .npz.

    Raises:
        ValueError: If it holds Python objects, or its length is another than its header says.
    """
    _header(archive, info)
    with archive.open(info) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _pixels(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    shape, fortran, dtype, start = _header(archive, info)
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


def _header(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, column order, type and length of the header of an array; refuses what does not add up."""
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} is of an unknown version {version}")
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are not read")
    if start + math.prod(shape) * dtype.itemsize != info.file_size:
        raise ValueError(f"{info.filename} is of another length than its header says")
    return shape, fortran, dtype, start
