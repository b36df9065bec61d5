"""Pictures that lie, hang or burst: told by name and reason, or read; never a hang, never in part."""

import os
import socket
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clctl.console import Exit, Problem
from clctl.data import decode as decoding
from clctl.data.decode import HEIC, SUFFIXES, Bad, Bounds, Picture, decode
from clctl.data.open import load
from clctl.data.scan import scan
from clctl.data.sources.folder import Config
from clctl.data.survey import looks

SMALL = Bounds(16, 1.5)
WIDE = Bounds(1000, 100.0)
OPTIONS = {".webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"},
           "rle.bmp": {}, "lossy.webp": {}, "progressive.jpg": {"progressive": True}}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    warnings.simplefilter("ignore")  # as the store has it


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def folder(root: Path, count: int = 4) -> Path:
    root.mkdir()
    for i in range(count):
        noise(20, 24, i).save(root / f"{i}.png")
    return root


def reason(path: Path, bounds: Bounds = SMALL) -> str:
    found = decode(str(path), bounds)
    assert isinstance(found, Bad), found
    assert found.reason.isprintable()
    return found.reason


def refused(root: Path, **settings) -> Problem:
    with pytest.raises(Problem) as caught:
        load(Config(path=str(root), **settings), 16, lambda line: None)
    assert caught.value.exit == Exit.DATA
    return caught.value


DISGUISED = {
    "pdf": b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/x) (w) file\n",
    "svg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "html": b"<!doctype html><script>1</script>",
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 60,
    "ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + b"\0" * 90,
    "pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01x.",
}


@pytest.mark.parametrize("kind", DISGUISED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_format_is_told_by_content_and_others_reach_no_decoder(
    tmp_path, kind, suffix, monkeypatch
):
    monkeypatch.setattr("subprocess.Popen", None)  # Ghostscript would be started by it
    path = tmp_path / f"a{suffix}"
    path.write_bytes(DISGUISED[kind])
    assert "not a picture of a known format" in reason(path)


def test_a_suffix_does_not_matter(tmp_path):
    noise(9, 9).save(tmp_path / "a.jpg", "PNG")
    found = decode(str(tmp_path / "a.jpg"), WIDE)
    assert isinstance(found, Picture)
    assert (found.pixels == np.asarray(noise(9, 9))).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, more: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + more + end


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    zeros = zlib.compress(b"\0" * 5_000_000)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 20_000_000))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 20_000_000))
    for name, content, words in (
        ("side", png(50_000, 50_000, zeros), "exceeds limit"),
        ("half", png(12_000, 12_000, zeros), "are the limit"),
        ("text", png(8, 8, zeros, text), "too large"),
        ("profile", png(8, 8, zeros, profile), "too large"),
        ("wide", png(2**31 - 1, 1, zeros), "limit"),
    ):
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        begin = time.process_time()
        assert words in reason(path), name
        assert time.process_time() - begin < 1, name


def test_a_file_that_is_larger_than_any_picture_is_not_read(tmp_path):
    path = tmp_path / "sparse.jpg"
    with open(path, "wb") as file:
        file.truncate(decoding.LARGEST + 1)
    assert "are the limit" in reason(path)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(png(*size, zlib.compress(b"")))
    assert reason(path)


def exif(*entries: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0\0\0\0" + tail


TAG = 0x0112
ODD = {
    "nine": exif((TAG, 3, 1, 9)),
    "nought": exif((TAG, 3, 1, 0)),
    "huge": exif((TAG, 4, 1, 2**32 - 1)),
    "text": exif((TAG, 2, 4, 0x41414141)),
    "nothing by nothing": exif((TAG, 5, 1, 26), tail=bytes(8)),
    "not a number": exif((TAG, 11, 1, 0x7FC00000)),
    "far away": exif((TAG, 3, 1000, 0xFFFFFFF0)),
    "in a circle": exif((0x8769, 4, 1, 8)),
    "no TIFF": b"Exif\0\0" + b"garbage" * 3,
    "cut": b"Exif\0\0II",
    "nothing": b"Exif\0\0",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_whole_picture_with_odd_metadata_is_read_as_it_lies(tmp_path, name, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 95} if suffix == "jpg" else {"lossless": True}
    noise(18, 30).save(path, exif=ODD[name], **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode(str(path), WIDE)
    assert isinstance(found, Picture), found
    assert (found.pixels == expected).all()
    (seen,) = looks([str(path)])
    assert not isinstance(seen, Bad), seen
    assert (seen.width, seen.height) == (30, 18)


def test_the_first_frame_of_an_animated_png_is_taken(tmp_path):
    frames = [noise(12, 15, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    found = decode(str(tmp_path / "a.png"), WIDE)
    assert isinstance(found, Picture)
    assert (found.pixels == np.asarray(frames[0])).all()


def kinds() -> list[str]:
    return [*SUFFIXES, *OPTIONS, *HEIC[:1]]


def saved(path: Path, image: Image.Image, kind: str) -> bytes:
    if kind in HEIC:
        pytest.importorskip("pillow_heif")
        assert decoding.heic()
    image = image.convert("L") if kind == ".pgm" else image
    options = {} if kind == "rle.bmp" else OPTIONS.get(kind, {})
    image.save(path, **({"format": "HEIF"} if kind in HEIC else options))
    if kind == "rle.bmp":  # Pillow writes none
        path.write_bytes(run_lengths(image.size))
    return path.read_bytes()


def run_lengths(size: tuple[int, int]) -> bytes:
    """A BMP of 256 greys, packed as runs of 5 pixels."""
    width, height = size
    lines = [bytes(b for x in range(0, width, 5) for b in (min(5, width - x), (7 * x + y) % 256))
             for y in range(height)]  # fmt: skip
    data = b"\0\0".join(lines) + b"\0\1"
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + head + palette + data


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("bounds", [SMALL, WIDE], ids=["shrunk", "whole"])
def test_cut_at_every_sixty_fourth_is_bad_or_the_whole_picture(tmp_path, kind, bounds):
    path = tmp_path / f"a{kind}"
    data = saved(path, noise(48, 60), kind)
    whole = decode(str(path), bounds)
    assert isinstance(whole, Picture), whole
    read = 0
    for part in range(64):
        path.write_bytes(data[: len(data) * part // 64])
        found = decode(str(path), bounds)
        if isinstance(found, Picture):
            read += 1
            assert (found.pixels == whole.pixels).all(), part
        else:
            assert found.reason
            assert found.lasting
    assert read <= 1  # where the last sixty-fourth holds no pixel


@pytest.mark.parametrize("kind", kinds())
def test_flipped_bytes_give_a_picture_or_a_reason(tmp_path, kind):
    random = np.random.default_rng(7)
    path = tmp_path / f"a{kind}"
    data = np.frombuffer(saved(path, noise(24, 30), kind), np.uint8)
    bad = 0
    for _ in range(60):
        hurt = data.copy()
        hurt[random.integers(0, min(len(data), 400), 3)] ^= random.integers(1, 256, 3, np.uint8)
        path.write_bytes(hurt.tobytes())
        found = decode(str(path), SMALL)
        bad += isinstance(found, Bad)
        if isinstance(found, Picture):
            assert found.pixels.ndim == 3
            assert min(found.pixels.shape[:2]) <= 16
    assert bad or kind in (".ppm", ".bmp", "rle.bmp", ".pgm")  # those hold little but pixels


@pytest.mark.parametrize("make", ["pipe", "socket", "device", "folder"])
def test_what_took_the_place_of_a_picture_is_not_opened(tmp_path, make):
    path = tmp_path / "x.jpg"
    if make == "pipe":
        os.mkfifo(path)
    elif make == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif make == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    found: list[Bad | Picture] = []
    reader = threading.Thread(target=lambda: found.append(decode(str(path), SMALL)), daemon=True)
    reader.start()
    reader.join(10)
    assert [type(each) for each in found] == [Bad]
    assert isinstance(found[0], Bad)
    assert not found[0].lasting


def test_pipes_sockets_and_devices_are_counted_and_the_rest_is_read(tmp_path):
    root = folder(tmp_path / "d")
    os.mkfifo(root / "x.jpg")
    (root / "y.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "z.jpg"))
        assert scan(str(root)).others == {"pipes, sockets or devices": 3}
        assert len(load(Config(path=str(root)), 16, lambda line: None).splits["train"]) == 4


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = folder(tmp_path / "d")
    (root / "locked").mkdir()
    real = os.scandir

    def scandir(place):
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    problem = refused(root)
    assert problem.code == "data.unreadable-folder"
    assert str(root / "locked") in problem.message
    assert "Permission denied" in problem.message


def test_files_that_vanish_or_change_between_scan_and_decode(tmp_path, monkeypatch):
    root = folder(tmp_path / "d", 6)
    real = decoding.decode

    def late(path, bounds):
        if path.endswith("1.png"):
            os.unlink(path)
        if path.endswith("3.png"):
            Path(path).write_bytes(Path(path).read_bytes()[:90])
        return real(path, bounds)

    monkeypatch.setattr("clctl.data.build.decode", late)
    problem = refused(root)
    assert problem.code == "data.bad-images"
    assert "2 pictures of 6" in problem.message
    assert "1.png: No such file or directory" in problem.message
    assert "3.png: " in problem.message
    monkeypatch.undo()
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    (root / "3.png").unlink()
    assert len(load(Config(path=str(root)), 16, lambda line: None).splits["train"]) == 4


def test_bytes_that_are_no_text_and_escapes_in_names_are_named_and_shown_as_such(tmp_path):
    root = folder(tmp_path / "d")
    for name in (b"\xff\xfe.png", b"a\nb.png", b"t\tb.png", b"\x1b]0;owned\x07.png"):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"none")
    problem = refused(root)
    assert problem.message.count("not a picture") == 4
    assert problem.message.isprintable()
    for name in (r"\xff\xfe.png", r"a\nb.png", r"t\tb.png", r"\x1b]0;owned\x07.png"):
        assert name in problem.message
