"""One picture file to pixels: upright, grey or RGB, bounded in size and aspect; no torch here.

Of an animation or of several pages the first is taken. What is transparent becomes white. Grey
pictures of more than 8 bits keep their values, for the whole set is scaled alike (`depth`); 16-bit
colour comes from Pillow by its upper 8 bits.
Differs: pictures are shrunk with Pillow's antialiased triangle filter, the one that evaluation
and torchvision's Resize use, from a JPEG that libjpeg may first have shrunk to no less than three
times the wanted size.

What the decoder finds cut short or damaged is bad as a whole; no part of it is taken. A JPEG has
no checksums: damage that leaves its end in place may pass for a picture.
"""

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
HEIC = (".heic", ".heif")  # with the extra of that name

LARGEST = (
    1 << 30
)  # bytes of a file; the largest picture that is opened has fewer even as plain pixels

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
    """A decoded file.

    Attributes:
        pixels: uint8 [h, w, 1] or [h, w, 3]; float32 [h, w, 1], finite and in the file's own
            values, where it is grey with more than 8 bits.
        digest: sha256 hex of the file's bytes.
    """

    pixels: np.ndarray
    digest: str


@dataclass(frozen=True)
class Bad:
    """A file that is no whole picture; `lasting` is False where the system, not the file, failed."""

    reason: str
    lasting: bool = True


@cache
def heic() -> bool:
    """Whether pillow-heif is installed; if so, Pillow opens .heic from here on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


def suffixes() -> tuple[str, ...]:
    """Lower-case suffixes of the pictures that can be read here."""
    return SUFFIXES + HEIC if heic() else SUFFIXES


def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here; nothing else is opened."""
    return (*FORMATS, "HEIF") if heic() else FORMATS


def decode(path: str, bounds: Bounds) -> Picture | Bad:
    """Decode one file. The caller has Pillow's warnings ignored: size is judged here."""
    data = _content(path)
    if isinstance(data, Bad):
        return data
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            pixels = _pixels(image, bounds)
    except UnidentifiedImageError:
        return Bad("not a picture of a known format, or its first bytes are damaged")
    except MemoryError:
        return Bad("not enough memory to decode it", lasting=False)
    except Exception as error:
        # Damaged bytes make the decoders raise almost anything: OSError, SyntaxError,
        # struct.error, zlib.error, KeyError. All of it is a finding about this file.
        return Bad(" ".join(str(error).split())[:200] or type(error).__name__)
    return Picture(pixels, hashlib.sha256(data).hexdigest())


def _content(path: str) -> bytes | Bad:
    """The bytes of a regular file; what has become a pipe or device since it was found is not read."""
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Bad("it is no regular file", lasting=False)
            if status.st_size > LARGEST:
                return Bad(f"it has {status.st_size:,} bytes, and {LARGEST:,} are the limit")
            return file.read() or Bad("the file is empty")
    except OSError as error:
        return Bad(error.strerror or type(error).__name__, lasting=False)


def _pixels(image: Image.Image, bounds: Bounds) -> np.ndarray:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if not short:
        raise ValueError("it has no pixels")
    kept = min(long, max(short, int(short * bounds.max_aspect)))
    scale = min(1.0, bounds.short_side / short)
    cut = (min(width, kept), min(height, kept))
    left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
    size = (max(1, round(cut[0] * scale)), max(1, round(cut[1] * scale)))
    if scale < 1:
        image.draft(None, (int(width * scale * 3), int(height * scale * 3)))
    _bomb(image)
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, (left + cut[0]) * x, (top + cut[1]) * y)
    image.load()
    # Read only now: a TIFF turns itself while loading, a PNG may tell after its pixels.
    turn = _UPRIGHT.get(orientation(image))
    image = _flat(image).resize(size, Image.Resampling.BILINEAR, box=box)
    if turn is not None:
        image = image.transpose(turn)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts; 1 where there is none or none that can be read: the pixels are whole."""
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # SyntaxError, struct.error and more, as the bytes will have it
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _bomb(image: Image.Image) -> None:
    """Refuse what would fill the memory. A JPEG counts as its decoder will shrink it.

    Above twice this limit Pillow itself opens nothing.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels, and {limit:,} are the limit: "
            "shrink it, unless it is a decompression bomb"
        )


def _flat(image: Image.Image) -> Image.Image:
    """The same picture in mode L or RGB, or F where it is grey with more than 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_finite(np.asarray(image).astype(np.float32)))
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        clear = image.convert("LA" if grey else "RGBA")
        page = Image.new("L" if grey else "RGB", clear.size, "white")
        page.paste(clear.convert(page.mode), mask=clear.getchannel("A"))
        return page
    return image.convert("L" if grey else "RGB")


def _finite(values: np.ndarray) -> np.ndarray:
    """Float pictures mark missing places by NaN: these become the picture's lowest value."""
    good = np.isfinite(values)
    if good.all():
        return values
    if not good.any():
        raise ValueError("none of its values is finite")
    low, high = values[good].min(), values[good].max()
    return np.nan_to_num(values, nan=low, posinf=high, neginf=low)
