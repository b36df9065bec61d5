"""One picture file to pixels: upright, 8 bits, grey or RGB, bounded in size and aspect.

No torch here. Differs: pictures are shrunk with Pillow's antialiased triangle filter, the one
that evaluation and torchvision's Resize use, from a JPEG that libjpeg may first have shrunk to
no less than three times the wanted size.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpg", ".jpeg", ".png")

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Bounds:
    """Limits of a stored picture.

    Attributes:
        short_side: A larger short side is shrunk to this many pixels; none is enlarged.
        max_aspect: Long side over short side, at least 1; the rest is cut off evenly.
    """

    short_side: int
    max_aspect: float


@dataclass(frozen=True)
class Picture:
    """A decoded file: uint8 [h, w, 1] or [h, w, 3], and the sha256 hex of the file's bytes."""

    pixels: np.ndarray
    digest: str


@dataclass(frozen=True)
class Bad:
    """A file that is no whole picture; `lasting` is False where the system, not the file, failed."""

    reason: str
    lasting: bool = True


def decode(path: str, bounds: Bounds) -> Picture | Bad:
    """Decode one file. The caller turns Pillow's DecompressionBombWarning into an error."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return Bad(error.strerror or type(error).__name__, lasting=False)
    if not data:
        return Bad("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = _pixels(image, bounds)
    except UnidentifiedImageError:
        return Bad("not a JPEG or PNG picture, or its first bytes are damaged")
    except MemoryError:
        return Bad("not enough memory to decode it", lasting=False)
    except Exception as error:
        # Damaged bytes make the decoders raise almost anything: OSError, SyntaxError,
        # struct.error, zlib.error, KeyError. All of it is a finding about this file.
        return Bad(str(error) or type(error).__name__)
    return Picture(pixels, hashlib.sha256(data).hexdigest())


def _pixels(image: Image.Image, bounds: Bounds) -> np.ndarray:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    kept = min(long, max(short, int(short * bounds.max_aspect)))
    scale = min(1.0, bounds.short_side / short)
    cut = (min(width, kept), min(height, kept))
    left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
    size = (max(1, round(cut[0] * scale)), max(1, round(cut[1] * scale)))
    if scale < 1:
        image.draft(None, (int(width * scale * 3), int(height * scale * 3)))
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, (left + cut[0]) * x, (top + cut[1]) * y)
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    image = _flat(image).resize(size, Image.Resampling.BILINEAR, box=box)
    if turn is not None:
        image = image.transpose(turn)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _flat(image: Image.Image) -> Image.Image:
    """The same picture in mode L or RGB; what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        clear = image.convert("LA" if grey else "RGBA")
        page = Image.new("L" if grey else "RGB", clear.size, "white")
        page.paste(clear.convert(page.mode), mask=clear.getchannel("A"))
        return page
    return image.convert("L" if grey else "RGB")
