"""Every format that is read, whole, cut short and oversized; pictures of more than 8 bits."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clctl.console import Problem
from clctl.data import decode as decoding
from clctl.data.cache import decoded
from clctl.data.decode import HEIC, SUFFIXES, Bad, Bounds, Picture, decode
from clctl.data.depth import scaled, window
from clctl.data.open import load
from clctl.data.scan import scan
from clctl.data.sources.folder import Config
from clctl.images import DataSet

WIDE = Bounds(short_side=1000, max_aspect=100.0)
EXACT = (".png", ".bmp", ".tif", ".tiff", ".ppm")
KINDS = {
    **{suffix: {} for suffix in SUFFIXES},
    ".webp": {"lossless": True},
    "lossy.webp": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "jpeg.tif": {"compression": "jpeg"},
    "progressive.jpg": {"progressive": True},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return np.stack([down * 5 + across, across * 4, down * 3 + 60], -1).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if path.suffix.lower() == ".pgm":
        image = image.convert("L") if image.mode == "RGB" else image
    image.save(path, **options)
    return path


def pixels(path: Path, bounds: Bounds = WIDE) -> np.ndarray:
    found = decode(str(path), bounds)
    assert isinstance(found, Picture), found
    return found.pixels


def reason(path: Path, bounds: Bounds = WIDE) -> str:
    found = decode(str(path), bounds)
    assert isinstance(found, Bad)
    return found.reason


def opened(root: Path, **settings) -> DataSet:
    return load(Config(path=str(root), **settings), 32, lambda line: None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_reads_as_pillow_reads_it(tmp_path, kind):
    path = saved(tmp_path / f"a{kind}", noise(21, 34), **KINDS[kind])
    with Image.open(path) as image:
        expected = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    found = pixels(path)
    assert (found.squeeze() == expected).all()
    if kind in EXACT:
        assert (found == noise(21, 34)).all()
    os.rename(path, upper := path.with_name("B" + kind.upper()))
    assert (pixels(upper) == found).all()
    assert [file.name for file in scan(str(tmp_path)).files] == [upper.name]


@pytest.mark.parametrize("kind", KINDS)
def test_cut_short_anywhere_is_bad_or_whole(tmp_path, kind, capfd):
    path = saved(tmp_path / f"a{kind}", noise(24, 24), **KINDS[kind])
    data, whole = path.read_bytes(), pixels(path)
    good = 0
    for cut in range(0, len(data), max(1, len(data) // 97)):
        path.write_bytes(data[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the store has it
            found = decode(str(path), WIDE)
        if isinstance(found, Picture):
            good += 1
            assert (found.pixels == whole).all()
        else:
            assert found.reason
            assert found.reason.isprintable()
            assert found.lasting
    assert good <= 3  # only what follows the last pixel may be missing
    if kind != "jpeg.tif":  # its library writes to stderr on its own
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_never_raise(tmp_path, kind):
    random = np.random.default_rng(0)
    path = saved(tmp_path / f"a{kind}", smooth(16, 16), **KINDS[kind])
    data = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
        hurt = data.copy()
        hurt[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
        path.write_bytes(hurt.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert isinstance(decode(str(path), WIDE), Picture | Bad)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["webp", "tif"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = suffix == "webp"  # others do not ask
    path = saved(tmp_path / f"a.{suffix}", smooth(24, 40), exif=exif, lossless=lossless)
    upright = np.asarray(_turned(Image.fromarray(smooth(24, 40)), orientation))
    assert (pixels(path) == upright).all()
    cut = pixels(path, Bounds(12, 1.2))
    assert cut.shape == ((12, 14, 3) if orientation < 5 else (14, 12, 3))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.getexif().update(exif)
    return ImageOps.exif_transpose(image)


def test_the_first_of_an_animation_or_of_pages_is_taken(tmp_path):
    frames = [Image.fromarray(noise(12, 15, seed)).quantize(64) for seed in range(3)]
    for suffix in ("gif", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=suffix == "webp")
        assert (pixels(path) == np.asarray(frames[0].convert("RGB"))).all(), suffix


def test_what_is_transparent_becomes_white(tmp_path):
    clear = Image.fromarray(np.dstack([noise(8, 9), np.zeros((8, 9), np.uint8)]))
    for suffix in ("png", "webp", "tif"):
        assert (pixels(saved(tmp_path / f"a.{suffix}", clear)) == 255).all(), suffix
    table = Image.fromarray(noise(8, 9)).quantize(8)
    found = pixels(saved(tmp_path / "a.gif", table, transparency=2))
    hole = (found == 255).all(-1)
    assert hole.any()
    assert (found[~hole] == np.asarray(table.convert("RGB"))[~hole]).all()


def test_colour_spaces_and_bits(tmp_path):
    ink = Image.fromarray(smooth(16, 16)).convert("CMYK")
    assert (pixels(saved(tmp_path / "ink.tif", ink)) == np.asarray(ink.convert("RGB"))).all()
    bits = noise(9, 9)[..., 0] > 99
    for name in ("a.tif", "a.png", "a.bmp", "a.gif"):
        assert (pixels(saved(tmp_path / name, Image.fromarray(bits)))[..., 0] == 255 * bits).all()
    assert pixels(saved(tmp_path / "a.pgm", noise(5, 6)[..., 0])).shape == (5, 6, 1)


def test_tiny_and_empty_pictures(tmp_path):
    for suffix in SUFFIXES:
        dot = saved(tmp_path / f"a{suffix}", Image.new("L", (1, 1), 77).convert("RGB"))
        assert pixels(dot, Bounds(64, 1.5)).shape[:2] == (1, 1)
        dot.write_bytes(b"")
        assert reason(dot) == "the file is empty"
    (tmp_path / "none.ppm").write_bytes(b"P6 0 7 255\n")
    assert reason(tmp_path / "none.ppm")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    assert "not a picture" in reason(tmp_path / "text.png")


def test_a_huge_panorama_is_read_where_its_decoder_can_shrink_it(tmp_path, monkeypatch):
    jpeg = saved(tmp_path / "a.jpg", smooth(100, 1200))
    png = saved(tmp_path / "a.png", smooth(100, 1200))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pixels(jpeg, Bounds(12, 20.0)).shape == (12, 144, 3)
        for path in (jpeg, png):
            assert "1200 x 100 pixels, and 100,000 are the limit" in reason(path, WIDE)
        assert "the limit" in reason(png, Bounds(12, 20.0))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow opens up to twice that
        assert "exceeds limit" in reason(jpeg, Bounds(12, 20.0))


def deep(path: Path, values: np.ndarray, **options) -> Path:
    return saved(path, Image.fromarray(values), **options)


@pytest.mark.parametrize("kind", ["a.png", "a.tif", "b.tif", "a.pgm", "f.tif", "i.tif"])
def test_deep_pictures_keep_their_values(tmp_path, kind):
    values = np.random.default_rng(3).integers(0, 65536, (11, 13)).astype(np.uint16)
    types = {"f.tif": np.float32, "i.tif": np.int32}
    if kind == "b.tif":  # big-endian
        image = Image.frombytes("I;16B", (13, 11), values.astype(">u2").tobytes())
        path = saved(tmp_path / kind, image)
    else:
        path = deep(tmp_path / kind, values.astype(types.get(kind, np.uint16)))
    found = pixels(path)
    assert found.dtype == np.float32
    assert (found[..., 0] == values).all()


def test_float_pictures_with_holes(tmp_path):
    values = np.linspace(2, 9, 42, dtype=np.float32).reshape(6, 7)
    values[1, 2], values[3, 3], values[4, 4] = np.nan, np.inf, -np.inf
    found = pixels(deep(tmp_path / "a.tif", values))[..., 0]
    assert (found[[1, 4], [2, 4]] == 2).all()
    assert found[3, 3] == 9
    hollow = deep(tmp_path / "b.tif", np.full((4, 4), np.nan, np.float32))
    assert "finite" in reason(hollow)


def test_the_window_is_that_of_percentiles_and_scales_linearly():
    random = np.random.default_rng(0)
    named = [(f"{i:03}", random.normal(500, 90, 4000).astype(np.float32)) for i in range(200)]
    found = window(named)
    assert found is not None
    everything = np.concatenate([values for _, values in named])
    assert found == pytest.approx(np.percentile(everything, [0.5, 99.5]), rel=1e-6)
    assert window(reversed(named)) == found
    assert window([]) is None
    values = np.array([-9, 0, 20, 100, 1e30], np.float32)
    assert scaled(values, (0.0, 100.0)).tolist() == [0, 0, 51, 255, 255]
    assert scaled(values, (50.0, 50.0)).tolist() == [0, 0, 0, 255, 255]


def microscope(root: Path, count: int = 12) -> Path:
    """Twelve bits in sixteen, one hot pixel each, darker and brighter pictures."""
    random = np.random.default_rng(1)
    for i in range(count):
        values = random.integers(100, 500 + 250 * i, (20, 24)).astype(np.uint16)
        values[3, 4] = 65535
        deep(root / f"{i:02}.png", values)
    return root


def test_a_set_is_scaled_once_and_says_so(tmp_path):
    root = microscope(tmp_path / "d")
    data = opened(root)
    canvas = data.splits["train"].images.canvas
    assert canvas.shape == (12, 1, 20, 24)
    means = canvas.float().mean((1, 2, 3))
    assert (means.diff() > 3).all()  # dark stays darker than bright
    assert int(canvas.min()) == 0
    assert 200 < int(canvas[-1].median()) * 2 < 300  # a hot pixel does not darken the rest
    (note,) = [note for note in data.notes if "more than 8 bits" in note]
    low, high = scan_window(root)
    assert note.startswith(f"12 pictures with more than 8 bits: the values {low:g} to {high:g}")
    assert opened(root).fingerprint == data.fingerprint
    expected = scaled(np.asarray(Image.open(root / "07.png"), np.float32), (low, high))
    assert (canvas[7, 0].numpy() == expected).all()


def scan_window(root: Path) -> tuple[float, float]:
    store = decoded(scan(str(root)).files, Bounds(64, 1.5), lambda line: None)
    assert store.window is not None
    return store.window


def test_the_window_is_part_of_the_fingerprint_and_of_no_other_set(tmp_path):
    from clctl.data.fingerprint import of_set

    parts = {"train": ("0", None)}
    prints = {of_set(parts, None), of_set(parts, None, (0.0, 9.0)), of_set(parts, None, (0.0, 8.0))}
    assert len(prints) == 3
    root = microscope(tmp_path / "d", 4)
    first = scan_window(root)
    (root / "bad.png").write_bytes((root / "00.png").read_bytes()[:200])
    assert scan_window(root) == first


def test_deep_beside_colour(tmp_path):
    root = microscope(tmp_path / "d", 3)
    saved(root / "x.png", noise(30, 21))
    data = opened(root)
    canvas, sizes = data.splits["train"].images.canvas, data.splits["train"].images.sizes
    assert canvas.shape == (4, 3, 30, 24)
    assert sizes.tolist() == [[20, 24]] * 3 + [[30, 21]]
    assert (canvas[3, :, :30, :21].permute(1, 2, 0).numpy() == noise(30, 21)).all()
    assert (canvas[:3, 0] == canvas[:3, 2]).all()
    assert any(note.startswith("3 pictures with more") for note in data.notes)


def test_heic_without_its_package_is_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "heic", lambda: False)
    for i in range(2):
        saved(tmp_path / f"d/{i}.png", noise(9, 9, i))
        (tmp_path / f"d/{i}.HEIC").write_bytes(b"1")
    (tmp_path / "d/notes.txt").write_text("")
    notes = opened(tmp_path / "d").notes
    assert "2 .heic ignored: pip install 'clctl[heic]'" in notes
    assert "not read: 1 .txt" in notes
    for i in range(2):
        (tmp_path / f"d/{i}.png").unlink()
    with pytest.raises(Problem) as caught:
        opened(tmp_path / "d")
    assert "2 .heic" in caught.value.message
    assert caught.value.suggestion == "pip install 'clctl[heic]'"


@pytest.mark.parametrize("suffix", HEIC)
def test_heic_with_its_package(tmp_path, suffix):
    pytest.importorskip("pillow_heif")
    decoding.heic()
    path = saved(tmp_path / f"a{suffix}", smooth(24, 40), format="HEIF", quality=95)
    found = pixels(path)
    assert np.abs(found.astype(int) - smooth(24, 40)).mean() < 4
    assert [file.name for file in scan(str(tmp_path)).files] == [path.name]
    data = path.read_bytes()
    for cut in range(0, len(data) - 1, len(data) // 40):
        path.write_bytes(data[:cut])
        assert isinstance(decode(str(path), WIDE), Bad)
