"""Decoding one picture, and the image store that keeps the result."""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import resize

from clctl.console import Exit, Problem
from clctl.data import build, cache
from clctl.data.decode import Bad, Bounds, Picture, decode
from clctl.data.scan import scan

WIDE = Bounds(short_side=1000, max_aspect=100.0)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def smooth(height: int, width: int) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / 9 + k) + np.cos(across / 13 - k) for k in range(3)]
    return ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)


def stored(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def pixels(path: Path, bounds: Bounds = WIDE) -> np.ndarray:
    found = decode(str(path), bounds)
    assert isinstance(found, Picture), found
    return found.pixels


def test_pictures_within_the_bounds_keep_every_pixel(tmp_path):
    rgb, grey = noise(31, 47), noise(31, 47, 1)
    assert (pixels(stored(tmp_path / "a.png", Image.fromarray(rgb))) == rgb).all()
    assert (pixels(stored(tmp_path / "b.PNG", Image.fromarray(grey)))[..., 0] == grey).all()
    path = stored(tmp_path / "c.JPG", Image.fromarray(rgb), format="JPEG")
    assert (pixels(path) == np.asarray(Image.open(path))).all()


def test_shrinking_is_torchvisions_antialiased_resize(tmp_path):
    picture = smooth(300, 400)
    path = stored(tmp_path / "a.png", Image.fromarray(picture))
    mine = pixels(path, Bounds(64, 2.0))
    theirs = resize(torch.from_numpy(picture).permute(2, 0, 1), [64, 85], antialias=True)
    assert mine.shape == (64, 85, 3)
    assert np.abs(mine.astype(int) - theirs.permute(1, 2, 0).numpy()).max() <= 1
    path = stored(tmp_path / "a.jpg", Image.fromarray(picture), quality=95)
    assert np.abs(pixels(path, Bounds(64, 2.0)).astype(int) - mine).mean() < 1


@pytest.mark.parametrize(("scale", "most"), [(4, 0), (16, 2)])  # mean difference in levels
def test_a_jpeg_shrunk_by_its_decoder_loses_little(tmp_path, scale, most):
    path = stored(tmp_path / "a.jpg", Image.fromarray(noise(40 * scale, 50 * scale)), quality=95)
    with Image.open(path) as image:
        whole = np.asarray(image.resize((50, 40), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels(path, Bounds(40, 2.0)) - whole).mean() <= most


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((40, 40), Bounds(64, 1.5), (40, 40)),  # never enlarged
        ((100, 40), Bounds(64, 1.5), (60, 40)),
        ((40, 100), Bounds(20, 1.5), (20, 30)),
        ((500, 400), Bounds(100, 1.0), (100, 100)),
        ((1, 900), Bounds(64, 1.5), (1, 1)),
        ((3000, 1000), Bounds(128, 1.5), (192, 128)),
    ],
)
def test_size_and_aspect_are_bounded(tmp_path, size, bounds, expected):
    for suffix in ("png", "jpg"):
        path = stored(tmp_path / f"a.{suffix}", Image.new("RGB", size))
        assert pixels(path, bounds).shape == (expected[1], expected[0], 3)


def test_the_middle_is_kept_where_the_aspect_is_cut(tmp_path):
    picture = noise(20, 61)
    path = stored(tmp_path / "a.png", Image.fromarray(picture))
    assert (pixels(path, Bounds(64, 1.5)) == picture[:, 15:45]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = stored(tmp_path / f"a.{suffix}", Image.fromarray(smooth(24, 40)), exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert (pixels(path) == upright).all()


def test_every_mode_becomes_grey_or_rgb(tmp_path):
    rgb, grey, alpha = noise(8, 9), noise(8, 9, 1, 1), noise(8, 9, 1, 2)
    over = alpha[..., None] / 255
    clear = Image.fromarray(np.dstack([rgb, alpha]))
    found = pixels(stored(tmp_path / "rgba.png", clear))
    assert np.abs(found - (rgb * over + 255 * (1 - over))).max() <= 1
    faint = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    found = pixels(stored(tmp_path / "la.png", faint))
    assert found.shape[2] == 1
    assert np.abs(found - (grey[..., None] * over + 255 * (1 - over))).max() <= 1

    wide = np.arange(0, 65536, 97, dtype=np.uint16)[:672].reshape(24, 28)
    found = pixels(stored(tmp_path / "wide.png", Image.fromarray(wide)))
    assert found.dtype == np.float32  # scaled with the whole set, in the store
    assert (found[..., 0] == wide).all()

    bits = Image.fromarray(grey > 99)
    assert (pixels(stored(tmp_path / "bits.png", bits))[..., 0] == 255 * (grey > 99)).all()

    table = Image.fromarray(rgb).quantize(16)
    found = pixels(stored(tmp_path / "table.png", table))
    assert (found == np.asarray(table.convert("RGB"))).all()
    found = pixels(stored(tmp_path / "hole.png", table, transparency=3))
    hole = np.asarray(table) == 3
    assert hole.any()
    assert (found[hole] == 255).all()
    assert (found[~hole] == np.asarray(table.convert("RGB"))[~hole]).all()

    ink = Image.fromarray(smooth(16, 16)).convert("CMYK")
    found = pixels(stored(tmp_path / "ink.jpg", ink, quality=100))
    assert np.abs(found.astype(int) - np.asarray(ink.convert("RGB"))).mean() < 3


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_anywhere_is_bad_or_whole(tmp_path, suffix):
    path = stored(tmp_path / f"a.{suffix}", Image.fromarray(noise(32, 32)))
    data, whole = path.read_bytes(), pixels(path)
    good = 0
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        found = decode(str(path), WIDE)
        if isinstance(found, Picture):
            good += 1
            assert (found.pixels == whole).all()
        else:
            assert found.reason
            assert "0x" not in found.reason
    assert good <= 3  # only what follows the last pixel may be missing


def test_damaged_bytes_never_raise(tmp_path):
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png"):
        path = stored(tmp_path / f"a.{suffix}", Image.fromarray(smooth(24, 24)), exif=exif)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            hurt = data.copy()
            hurt[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
            path.write_bytes(hurt.tobytes())
            assert isinstance(decode(str(path), WIDE), Picture | Bad)


def fill(folder: Path, count: int = 6, size: tuple[int, int] = (20, 24)) -> Path:
    for i in range(count):
        stored(folder / f"{i}.png", Image.fromarray(noise(*size, seed=i)))
    return folder


def open_store(folder: Path, said: list[str] | None = None) -> cache.Store:
    said = [] if said is None else said
    return cache.decoded(scan(str(folder)).files, Bounds(64, 1.5), said.append)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def no_decoding(monkeypatch):
    def start():
        def refuse(path, bounds):
            raise AssertionError(f"{path} was decoded again")

        monkeypatch.setattr(build, "decode", refuse)

    return start


def test_the_second_start_decodes_nothing(tmp_path, home, no_decoding):
    folder = fill(tmp_path / "data")
    said: list[str] = []
    first = open_store(folder, said)
    assert any("decoding 6 pictures" in line for line in said)
    no_decoding()
    said.clear()
    again = open_store(folder, said)
    assert said == []
    for store in (first, again):
        assert store.rows == list(range(6))
        for i in range(6):
            assert (store.images.canvas[i].permute(1, 2, 0).numpy() == noise(20, 24, seed=i)).all()
    assert again.digests == first.digests


def test_sizes_and_channels_may_differ(tmp_path, home):
    kinds = [noise(20, 24), noise(9, 12, 1), noise(30, 21)]
    for i, kind in enumerate(kinds):
        stored(tmp_path / f"data/{i}.png", Image.fromarray(kind))
    store = open_store(tmp_path / "data")
    assert store.images.canvas.shape == (3, 3, 30, 24)
    assert store.images.sizes.tolist() == [[20, 24], [9, 12], [30, 21]]
    for row, kind in enumerate(kinds):
        height, width = store.images.sizes[row].tolist()
        found = store.images.canvas[row, :, :height, :width].permute(1, 2, 0).numpy()
        assert (found == kind.reshape(height, width, -1)).all()


def test_grey_pictures_alone_take_one_channel(tmp_path, home):
    stored(tmp_path / "data/0.png", Image.fromarray(noise(8, 8, 1)))
    stored(tmp_path / "data/1.png", Image.fromarray(noise(9, 8, 1)))
    assert open_store(tmp_path / "data").images.canvas.shape == (2, 1, 9, 8)


def test_a_touched_file_builds_a_new_store_of_the_same_content(tmp_path, home):
    folder = fill(tmp_path / "data")
    first = open_store(folder)
    os.utime(folder / "3.png", ns=(1, 1))
    said: list[str] = []
    again = open_store(folder, said)
    assert said
    assert again.digests == first.digests
    assert len(list(home.iterdir())) == 2


def test_other_bounds_have_a_store_of_their_own(tmp_path, home):
    files = scan(str(fill(tmp_path / "data"))).files
    for bounds, shape in ((Bounds(10, 1.5), (10, 12)), (Bounds(20, 1.0), (20, 20))):
        store = cache.decoded(files, bounds, lambda line: None)
        assert tuple(store.images.canvas.shape[2:]) == shape


def test_bad_pictures_are_remembered(tmp_path, home, no_decoding):
    folder = fill(tmp_path / "data")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    first = open_store(folder)
    no_decoding()
    for store in (first, open_store(folder)):
        assert [row for row, _ in store.bad] == [2]
        assert store.rows == [0, 1, 3, 4, 5]
        assert (store.images.canvas[2].permute(1, 2, 0).numpy() == noise(20, 24, seed=3)).all()


def test_what_the_system_could_not_read_is_tried_again(tmp_path, home, monkeypatch):
    folder = fill(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(build, "decode", lambda path, bounds: Bad("Input/output error", False))
        assert len(open_store(folder).bad) == 6
    assert len(open_store(folder).rows) == 6
    assert len(open_store(folder).rows) == 6


def test_bombs_are_bad_pictures(tmp_path, home, monkeypatch):
    folder = fill(tmp_path / "data", 2)
    stored(folder / "bomb.png", Image.new("1", (60, 60)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    (row, reason), *others = open_store(folder).bad
    assert row == 2
    assert "decompression bomb" in reason
    assert not others


def test_a_damaged_store_is_built_again(tmp_path, home):
    folder = fill(tmp_path / "data")
    open_store(folder)
    for name, content in (("canvas.u8", b"short"), ("index.json", b"{"), ("index.json", b"{}")):
        next(home.glob(f"*/{name}")).write_bytes(content)
        said: list[str] = []
        assert len(open_store(folder, said).rows) == 6
        assert "damaged" in said[0]


def test_a_process_waits_for_the_builder_and_takes_its_store(tmp_path, home, no_decoding):
    folder = fill(tmp_path / "data")
    open_store(folder)
    (final,) = home.iterdir()
    whole = shutil.move(final, tmp_path / "built")
    draft = final.with_name(f"{final.name}.partial")
    draft.mkdir()
    no_decoding()
    said: list[str] = []
    with open(draft / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found: list[cache.Store] = []
        waiter = threading.Thread(target=lambda: found.append(open_store(folder, said)))
        waiter.start()
        while not said:
            time.sleep(0.01)
        assert "waiting" in said[0]
        shutil.rmtree(draft)
        os.rename(whole, final)
    waiter.join(10)
    assert len(found[0].rows) == 6


def test_a_killed_builder_leaves_nothing_that_is_read_or_stays(tmp_path, home):
    folder, other = fill(tmp_path / "data"), fill(tmp_path / "other", 3)
    script = (
        "import sys, time\n"
        "from clctl.data import build\n"
        "from clctl.data.cache import decoded\n"
        "from clctl.data.decode import Bounds\n"
        "from clctl.data.scan import scan\n"
        "real = build._lay_out\n"
        "def slow(pile, folder):\n"
        "    real(pile, folder); print('ready', flush=True); time.sleep(60)\n"
        "build._lay_out = slow\n"
        "decoded(scan(sys.argv[1]).files, Bounds(64, 1.5), lambda line: None)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
        open_store(other)
        drafts = [path.name for path in home.glob("*.partial")]
        assert len(drafts) == 1  # alive: left alone
        builder.send_signal(signal.SIGKILL)
    shutil.rmtree(next(path for path in home.iterdir() if path.name not in drafts))
    open_store(other)
    assert not list(home.glob("*.partial"))  # dead: swept
    assert len(open_store(folder).rows) == 6


def test_a_full_disk_is_a_problem_with_the_bytes_needed(tmp_path, home):
    folder = fill(tmp_path / "data", 40)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Problem) as caught:
            open_store(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "cache.disk-full")
    assert f"{40 * 2 * 20 * 24 * 3:,} bytes" in caught.value.message
    assert list(home.iterdir()) == []


def test_a_disk_with_too_little_room_for_the_canvas(tmp_path, home, monkeypatch):
    folder = fill(tmp_path / "data")
    stored(folder / "wide.png", Image.fromarray(noise(20, 30)))
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Problem) as caught:
        open_store(folder)
    assert caught.value.code == "cache.disk-full"
    assert "100 are free" in caught.value.message


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    folder = fill(tmp_path / "data")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(Problem) as caught:
        open_store(folder)
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "cache.not-writable")
    assert "CLCTL_CACHE" in str(caught.value.suggestion)


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("CLCTL_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache.home() == Path("/one")
    monkeypatch.delenv("CLCTL_CACHE")
    assert cache.home() == Path("/two/clctl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.home() == Path("/three/.cache/clctl")
