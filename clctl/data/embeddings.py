"""Files of features: what `clctl embed` writes, and what any other tool may hand over.

.npz        features float [N, D]; if you like labels [N], ids [N], splits [N] and classes [C]
.safetensors    the same: features and labels as tensors, the rest as JSON lists in the metadata
.npy        features alone
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data import arrayfile
from clctl.data.words import few
from clctl.store import tensors

SUFFIXES = (".npy", ".npz", ".safetensors")
SPLITS = ("train", "val", "test")
LISTS = ("ids", "splits", "classes")
KEYS = ("features", "labels", *LISTS)  # other arrays of a file stay unread
WANTED = "features float [N, D], and if you like labels [N], ids [N], splits [N] and classes"


@dataclass(frozen=True)
class Embeddings:
    """One file of features.

    Attributes:
        features: float32 [N, D], N and D at least 1, all finite.
        labels: int64 [N] from 0, or None.
        ids: N names.
        splits: N of SPLITS, or None.
        classes: Class names in the order of the labels, or None without labels.
        sha256: Of the file, in hex.
    """

    features: Tensor
    labels: Tensor | None
    ids: tuple[str, ...]
    splits: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    sha256: str


def read(path: Path) -> Embeddings:
    """Read a file by its suffix and check what is in it. Nothing is unpickled.

    Raises:
        Problem: If it is missing, damaged or holds something else; with what was found and wanted.
    """
    if not path.is_file():
        raise Problem(f"there is no file {path}", Exit.DATA, "data.missing")
    with arrayfile.telling(path, f"the file should hold {WANTED}"):
        found = _READERS[path.suffix](path)
    features = _features(path, found)
    count = len(features)
    labels, classes = _labels(path, found, count)
    ids = _names(path, found, "ids", count) or tuple(str(i) for i in range(count))
    splits = _names(path, found, "splits", count)
    if splits is not None and (wrong := set(splits) - set(SPLITS)):
        raise _problem(path, f"has splits {sorted(wrong)}; {', '.join(SPLITS)} are known")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Embeddings(features, labels, ids, splits, classes, digest)


def _features(path: Path, found: dict[str, Any]) -> Tensor:
    if "features" not in found:
        there = few(sorted(found)) or "nothing"
        raise _problem(path, f"holds no array called features, but {there}", "data.no-features")
    array = found["features"]
    words = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind != "f" or array.ndim != 2 or not array.size:
        raise _problem(path, f"has features {words}; floating point [N, D] is wanted")
    features = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    wrong = int((~torch.isfinite(features).all(dim=1)).sum())
    if wrong:
        raise _problem(
            path,
            f"has {wrong} of {len(features)} rows of features that are not finite",
            suggestion="leave those rows out, or embed again from a checkpoint that is whole",
        )
    return features


def _labels(
    path: Path, found: dict[str, Any], count: int
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels as numbers from 0, and the names of the classes."""
    classes = _names(path, found, "classes", None)
    if "labels" not in found:
        return None, None
    labels = found["labels"]
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        words = f"{labels.dtype} {list(labels.shape)}"
        raise _problem(path, f"has labels {words} for {count} rows of features")
    if classes is None:
        values, numbers = np.unique(labels, return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), tuple(str(v) for v in values)
    if labels.dtype.kind == "U" or labels.min() < 0 or labels.max() >= len(classes):
        raise _problem(path, f"names {len(classes)} classes, and labels do not number them from 0")
    return torch.from_numpy(labels.astype(np.int64)), classes


def _names(
    path: Path, found: dict[str, Any], key: str, count: int | None
) -> tuple[str, ...] | None:
    if key not in found:
        return None
    listed = found[key]
    names = listed.tolist() if isinstance(listed, np.ndarray) else listed
    if not isinstance(names, list) or (count is not None and len(names) != count):
        raise _problem(path, f"has {key} that are no list of {count or 'text'} entries")
    if key != "splits" and len({str(name) for name in names}) < len(names):
        raise _problem(path, f"has {key} that are there twice")
    if not all(map(arrayfile.is_text, map(str, names))):
        raise _problem(path, f"has {key} that are no Unicode text")
    return tuple(str(name) for name in names)


def _npy(path: Path) -> dict[str, Any]:
    return {"features": arrayfile.plain(path)}


def _npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        there = arrayfile.members(archive)
        return {n: arrayfile.array(archive, i) if n in KEYS else None for n, i in there.items()}


def _safetensors(path: Path) -> dict[str, Any]:
    tensors.header(path)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        found = {name: _numpy(file.get_tensor(name)) if name in KEYS else None for name in names}
        metadata = file.metadata() or {}
    return {**found, **{key: json.loads(metadata[key]) for key in LISTS if key in metadata}}


def _numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


_READERS = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}


def metadata(
    ids: Sequence[str], splits: Sequence[str], classes: Sequence[str] | None
) -> dict[str, str]:
    """The lists of a .safetensors file of features as its metadata."""
    lists = {"ids": list(ids), "splits": list(splits)}
    named = lists if classes is None else {**lists, "classes": list(classes)}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in named.items()}


def _problem(
    path: Path, what: str, code: str = "data.wrong-features", suggestion: str | None = None
) -> Problem:
    wanted = suggestion or f"the file should hold {WANTED}: clctl embed writes such files"
    return Problem(f"{path} {what}", Exit.DATA, code, wanted)
