"""What one picture is like, found with a single reduced decode: size, kind, and a small grey copy."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clctl.data.decode import Bad, Bounds, decode, formats, orientation
from clctl.data.spread import spread

SIDE = 32  # pixels of the small grey copy
COLOURLESS = 4.0  # levels between the channels of a grey picture that was stored in colour
FLAT = 2.0  # levels; a picture that varies by less shows nothing

_DECODED = Bounds(2 * SIDE, 3.0)


@dataclass(frozen=True)
class Look:
    """One picture.

    Attributes:
        width, height: Pixels, upright.
        mode: Pillow's name of the kind of pixel, such as "RGB", "L", "P" or "I;16".
        channels: Of the file, transparency included; a palette has one.
        bits: Of each channel in the file.
        format: Such as "JPEG"; "array" where there is no file.
        bytes: Of the file, or of the array.
        digest: Hex digest of the file's bytes, or of the array's pixels and shape.
        grey: uint8 [32, 32], the whole picture squeezed to a square.
        tint: float32 [3], mean red, green and blue, 0 to 255.
        colourless: Whether its channels are alike, however it is stored.
        flat: Whether it is of one colour all over.
    """

    width: int
    height: int
    mode: str
    channels: int
    bits: int
    format: str
    bytes: int
    digest: str
    grey: np.ndarray
    tint: np.ndarray
    colourless: bool
    flat: bool

    @property
    def short(self) -> int:
        """Short side in pixels."""
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """Long side over short side, at least 1."""
        return max(self.width, self.height) / self.short


def looks(paths: Sequence[str]) -> Iterator[Look | Bad]:
    """A look at each file, in the order of `paths`; decoding is spread over threads."""
    with warnings.catch_warnings():
        # Remarks on a picture's metadata are nobody's concern; `decode` judges its size.
        warnings.simplefilter("ignore")
        yield from spread(paths, look)


def look(path: str) -> Look | Bad:
    """A look at one file. The caller has Pillow's warnings ignored."""
    picture = decode(path, _DECODED)
    if isinstance(picture, Bad):
        return picture
    try:
        size = os.path.getsize(path)
        with Image.open(path, formats=formats()) as image:  # the header alone
            width, height = image.size
            if orientation(image) >= 5:  # on its side
                width, height = height, width
            mode, kind, bits = image.mode, image.format or "unknown", _bits(image)
            channels = len(image.getbands())
    except Exception as error:
        # It was decoded a moment ago: the file changed, or was taken away.
        return Bad(f"it changed while it was read: {error}", lasting=False)
    about = (width, height, mode, channels, bits, kind, size, picture.digest)
    return Look(*about, *_small(eight_bits(picture.pixels)))


def of_pixels(pixels: np.ndarray) -> Look:
    """A look at a picture of an array, uint8 [h, w, 1] or [h, w, 3]."""
    height, width, channels = pixels.shape
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    mode = "L" if channels == 1 else "RGB"
    about = (width, height, mode, channels, 8, "array", pixels.nbytes, digest.hexdigest())
    return Look(*about, *_small(pixels))


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels that `decode` gave as uint8; a deep picture is stretched over its own values.

    A run stretches all of a set alike; here it would take a second look at every picture.
    """
    if pixels.dtype == np.uint8:
        return pixels
    low, high = np.percentile(pixels, (0.5, 99.5))
    return np.round((pixels - low).clip(0, high - low) * (255 / max(high - low, 1e-12))).astype(
        "u1"
    )


def _bits(image: Image.Image) -> int:
    """Of each channel in the file, which Pillow may read with fewer."""
    stored = f"{image.mode} {[tile[3] for tile in getattr(image, 'tile', ())]}"  # such as "RGB;16B" of a PNG
    if ";16" in stored:
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)


def _small(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """The grey copy, the tint, and whether the picture is colourless and flat."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small.convert("L"))
    if small.mode == "L":
        spread, tint, varies = 0.0, np.full(3, grey.mean(), np.float32), grey.std()
    else:
        colours = np.asarray(small).astype(np.float32)
        spread, tint = float(np.ptp(colours, axis=2).mean()), colours.mean((0, 1))
        varies = colours.std((0, 1)).max()
    return grey, tint, spread < COLOURLESS, bool(varies < FLAT)
