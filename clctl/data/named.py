"""Data sets with a name of their own: where their files lie, how they are fetched and read."""

import io
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from math import prod
from pathlib import Path
from urllib.error import HTTPError

import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.data import fingerprint
from clctl.data.home import home
from clctl.data.layout import few
from clctl.data.mapped import mapped
from clctl.images import DataSet, Images, Split
from clctl.store import files

BROKEN = (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Archive:
    """What a set's official archive is, and which files of it are read.

    Attributes:
        name: Of the set, as in `data.name`.
        url, size: Where it is fetched from, and how much that is, for people.
        folder: What it unpacks to, with forward slashes.
        files: Names in there.
    """

    name: str
    url: str
    size: str
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Pictures of a set: canvas uint8 [N, C, H, W] in channels_last memory, labels int64 [N]."""

    canvas: Tensor
    labels: Tensor


def place(root: str | None) -> Path:
    """The folder of `data.root`: where nothing is given, `datasets` beside the image stores."""
    return home() / "datasets" if root is None else Path(root)


def fetch(
    archive: Archive, root: str | None, get: Callable[[str], object], talk: Callable[[str], None]
) -> None:
    """Download a set, unless all of its files are there; each appears whole or not at all.

    Args:
        get: Downloads, verifies and unpacks into the folder that it is given.

    Raises:
        Problem: If it cannot be had, or not be written.
    """
    where = place(root)
    if not _missing(archive, where):
        return
    talk(f"downloading {archive.name} ({archive.size}) from {archive.url} into {where}")
    files.make(where)
    try:
        draft = Path(tempfile.mkdtemp(prefix=".download-", dir=where))
    except OSError as error:
        raise _unfetched(archive, where, error) from error
    try:
        # Its bar is for a terminal; a log would be filled with it.
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            get(str(draft))
        files.make(where / archive.folder)
        for name in archive.files:
            files.rename(draft / archive.folder / name, where / archive.folder / name)
    except BROKEN as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise _unfetched(archive, where, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def folder(archive: Archive, root: str | None) -> Path:
    """The folder with the files of a set.

    Raises:
        Problem: If one of them is not there; with the folder and how to get it.
    """
    where = place(root)
    missing = _missing(archive, where)
    if not missing:
        return where / archive.folder
    more = f" and {len(missing) - 1} more are" if missing[1:] else " is"
    stray = ""
    if root is None and os.path.exists(archive.name):
        stray = f"; the folder here is --data ./{archive.name}"
    raise Problem(
        f"{archive.name} is not in {where}: {archive.folder}/{missing[0]}{more} missing",
        Exit.DATA,
        "data.not-downloaded",
        f"`clctl pretrain ... --download` fetches it ({archive.size}); or unpack {archive.url} "
        f"there, or set data.root to the folder that holds {archive.folder}/{stray}",
    )


def names(path: Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        Problem: If the file cannot be read.
    """
    try:
        found = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read: {error}") from error
    return tuple(line.strip() for line in found if line.strip())


def records(paths: Sequence[Path], head: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Files of records of one length: `head` bytes and then `shape` bytes, without a copy.

    Returns:
        Of all files in their order: heads uint8 [N, head] and bodies uint8 [N, *shape].

    Raises:
        Problem: If a file cannot be read or ends within a record.
    """
    length = head + prod(shape)
    rows = list[Tensor]()
    for path in paths:
        try:
            size = path.stat().st_size
            if size == 0 or size % length:
                raise damaged(path, f"has {size:,} bytes, which is no multiple of {length:,}")
            rows.append(mapped(path, (size // length, length)))
        except OSError as error:
            raise damaged(path, f"cannot be read: {error.strerror}") from error
    joined = rows[0] if len(rows) == 1 else torch.cat(rows)
    return joined[:, :head], joined[:, head:].unflatten(1, shape)


def canvas(*bodies: Tensor) -> Tensor:
    """Pictures uint8 [N, C, H, W] in any memory order, joined, in channels_last memory."""
    count, (channels, height, width) = sum(map(len, bodies)), bodies[0].shape[1:]
    lines = torch.empty(count, height, width, channels, dtype=torch.uint8)
    first = 0
    for body in bodies:
        lines[first : first + len(body)] = body.permute(0, 2, 3, 1)
        first += len(body)
    return lines.permute(0, 3, 1, 2)


def labelled(path: Path, pictures: Tensor, labels: Tensor, classes: Sequence[str]) -> Part:
    """Pictures with their labels, uint8 [N], which were read from `path`.

    Raises:
        Problem: If there are more or fewer labels than pictures, or one names no class.
    """
    if len(labels) != len(pictures):
        raise damaged(path, f"has {len(labels):,} labels for {len(pictures):,} pictures")
    if int(labels.max()) >= len(classes):
        raise damaged(
            path, f"has a label {int(labels.max())}, and there are {len(classes)} classes"
        )
    return Part(pictures, labels.long())


def dataset(
    name: str,
    title: str,
    parts: Mapping[str, Part],
    classes: tuple[str, ...],
    notes: tuple[str, ...] = (),
    pool: Tensor | None = None,
) -> DataSet:
    """The set as the rest of clctl sees it.

    Args:
        title: Its name as its authors write it.
        parts: By name of the split.
        pool: What pretraining reads instead of train where it needs no labels.
    """
    content: dict[str, tuple[str, Tensor | None]] = {
        split: (fingerprint.of_pixels(part.canvas), part.labels) for split, part in parts.items()
    }
    if pool is not None:
        content["pool"] = fingerprint.of_pixels(pool), None
    return DataSet(
        name=name,
        splits={split: _split(split, part.canvas, part.labels) for split, part in parts.items()},
        classes=classes,
        fingerprint=fingerprint.of_set(content, classes),
        labels_from=f"labels are {title}'s own: {len(classes)} classes ({few(classes)})",
        notes=notes,
        pool=None if pool is None else _split("pool", pool, None),
    )


def damaged(path: Path, what: str) -> Problem:
    """A problem with a file of a set."""
    again = f"remove {path.parent} and fetch it again: clctl pretrain ... --download"
    return Problem(f"{path} {what}", Exit.DATA, "data.unreadable-file", again)


def _split(name: str, pictures: Tensor, labels: Tensor | None) -> Split:
    sizes = torch.tensor(pictures.shape[2:]).expand(len(pictures), 2)
    return Split(name, Images(pictures, sizes), labels, [str(i) for i in range(len(pictures))])


def _missing(archive: Archive, where: Path) -> list[str]:
    return [name for name in archive.files if not (where / archive.folder / name).is_file()]


def _unfetched(archive: Archive, where: Path, error: Exception) -> Problem:
    return Problem(
        f"{archive.name} could not be downloaded into {where}: {' '.join(str(error).split())}",
        Exit.DATA,
        "data.download-failed",
        f"run the same command again, or fetch {archive.url} elsewhere and unpack it there",
    )
