"""Building an image store: decode every file once, in parallel, and lay the pictures out."""

import errno
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from clctl.console import Exit, Problem
from clctl.data.decode import Bad, Bounds, decode
from clctl.data.depth import Window, scaled, window
from clctl.data.entries import CANVAS, INDEX
from clctl.data.spread import spread

HEARTBEAT = 5.0  # seconds between lines of talk


@dataclass
class Pile:
    """Pictures as they come, one after the other in one file, each in its own size and type."""

    total: int
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    deep: list[bool] = field(default_factory=list)  # float32, not uint8
    rows: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    lasting: bool = True
    bytes: int = 0

    def canvas(self) -> tuple[int, int, int, int]:
        """Shape [N, H, W, C] that holds them all; one grey channel where all are grey."""
        height, width, channels = (max(side) for side in zip((1, 1, 1), *self.shapes, strict=True))
        return len(self.shapes), height, width, channels

    def needed(self) -> int:
        """Bytes that pile and canvas of the whole set will take, from the part seen so far."""
        _, height, width, channels = self.canvas()
        seen = max(1, len(self.shapes))
        return self.total * (height * width * channels + self.bytes // seen)


def build(paths: Sequence[str], bounds: Bounds, folder: Path, talk: Callable[[str], None]) -> None:
    """Write `canvas.u8` and `index.json` into `folder`, which is empty but for the lock.

    Raises:
        Problem: If the disk is full.
        OSError: If `folder` cannot be written for another reason.
    """
    pile = Pile(len(paths))
    talk(f"decoding {len(paths):,} pictures, once, into {folder.parent}")
    started = time.monotonic()
    try:
        _pile_up(paths, bounds, folder / "pile.u8", pile, talk)
        values = _lay_out(pile, folder)
        index = {
            "shape": pile.canvas(),
            "sizes": [shape[:2] for shape in pile.shapes],
            "rows": pile.rows,
            "digests": pile.digests,
            "deep": [*values, sum(pile.deep)] if values else None,
            "bad": pile.bad,
            "lasting": pile.lasting,
        }
        with open(folder / INDEX, "w") as out:
            json.dump(index, out)
            out.flush()
            _sync(out.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise _full(folder, pile.needed()) from error
    talk(f"decoded {len(pile.rows):,} pictures in {time.monotonic() - started:.1f} s")


def _pile_up(
    paths: Sequence[str], bounds: Bounds, to: Path, pile: Pile, talk: Callable[[str], None]
) -> None:
    told = time.monotonic()
    with open(to, "wb") as out, warnings.catch_warnings():
        # Remarks on a picture's metadata are nobody's concern; `decode` judges its size.
        warnings.simplefilter("ignore")
        for row, found in enumerate(spread(paths, partial(decode, bounds=bounds))):
            if isinstance(found, Bad):
                pile.bad.append((row, found.reason))
                pile.lasting &= found.lasting
            else:
                out.write(found.pixels.data)
                pile.shapes.append(found.pixels.shape)
                pile.deep.append(found.pixels.dtype == np.float32)
                pile.rows.append(row)
                pile.digests.append(found.digest)
                pile.bytes += found.pixels.nbytes
            if time.monotonic() - told > HEARTBEAT:
                told = time.monotonic()
                talk(f"decoded {row + 1:,} of {len(paths):,} pictures")


def _lay_out(pile: Pile, folder: Path) -> Window | None:
    """From the pile to the canvas, each picture at the top left of its place.

    Gives the values that became 0 and 255 where pictures have more than 8 bits.
    """
    source, target = folder / "pile.u8", folder / CANVAS
    shape = pile.canvas()
    if not any(pile.deep) and all(each == shape[1:] for each in pile.shapes):
        os.rename(source, target)
        with open(target, "rb") as out:
            _sync(out.fileno())
        return None
    if shutil.disk_usage(folder).free < int(np.prod(shape)):
        raise _full(folder, pile.needed())
    named = zip(pile.digests, _piled(pile, source), strict=True)
    values = window((digest, p.ravel()) for digest, p in named if p.dtype == np.float32)
    place = np.empty(shape[1:], np.uint8)
    with open(target, "wb") as out:
        for pixels in _piled(pile, source):
            height, width, _ = pixels.shape
            place[:] = 0
            if values is not None and pixels.dtype == np.float32:
                pixels = scaled(pixels, values)
            place[:height, :width] = pixels
            out.write(place.data)
        out.flush()
        _sync(out.fileno())
    source.unlink()
    return values


def _piled(pile: Pile, source: Path) -> Iterator[np.ndarray]:
    """Each picture as `decode` gave it, read when touched."""
    flat, start = np.memmap(source, np.uint8, "r"), 0
    for shape, deep in zip(pile.shapes, pile.deep, strict=True):
        kind = np.dtype(np.float32 if deep else np.uint8)
        end = start + int(np.prod(shape)) * kind.itemsize
        yield flat[start:end].view(kind).reshape(shape)
        start = end


def _sync(descriptor: int) -> None:
    """To the disk, so that after a power cut the renamed folder holds what its index says."""
    os.fsync(descriptor)


def _full(folder: Path, needed: int) -> Problem:
    free = shutil.disk_usage(folder).free
    return Problem(
        f"the disk is full: the image store needs about {needed:,} bytes in {folder.parent}, "
        f"{free:,} are free",
        Exit.RESOURCES,
        "cache.disk-full",
        "free some space, set data.short_side lower, or point CLCTL_CACHE at a larger disk",
    )
