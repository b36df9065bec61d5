"""clctl data scan: what is counted, which twins are found, and what is drawn."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import photographs
from PIL import Image

from clctl.data.decode import Bad
from clctl.data.duplicates import BITS_APART, duplicates, hashes, near
from clctl.data.survey import Look, look, looks, of_pixels
from clctl.report.sheet import SIDE, Tile, sheet


def smooth(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def seen(path: Path) -> Look:
    found = look(str(path))
    assert isinstance(found, Look)
    return found


def test_a_look_tells_what_the_file_is(tmp_path):
    picture = smooth(0, (64, 40))
    picture.save(tmp_path / "a.jpg")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("RGBA").save(tmp_path / "clear.png")
    picture.quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(tmp_path / "16.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    facts = {
        path.name: (one.width, one.height, one.mode, one.channels, one.bits, one.format)
        for path in tmp_path.iterdir()
        for one in [seen(path)]
    }
    assert facts == {
        "a.jpg": (64, 40, "RGB", 3, 8, "JPEG"),
        "grey.png": (64, 40, "L", 1, 8, "PNG"),
        "clear.png": (64, 40, "RGBA", 4, 8, "PNG"),
        "palette.png": (64, 40, "P", 1, 8, "PNG"),
        "16.png": (30, 20, "I;16", 1, 16, "PNG"),
        "turned.jpg": (40, 64, "RGB", 3, 8, "JPEG"),
    }


def test_grey_pictures_stored_in_colour_and_blank_ones_are_seen(tmp_path):
    smooth(0).convert("L").convert("RGB").save(tmp_path / "grey.jpg")
    smooth(0).save(tmp_path / "colour.jpg")
    Image.new("RGB", (50, 50), (200, 200, 200)).save(tmp_path / "blank.jpg")
    Image.new("RGB", (50, 50), (200, 0, 0)).save(tmp_path / "red.png")
    found = {p.stem: (seen(p).colourless, seen(p).flat) for p in tmp_path.iterdir()}
    assert found["grey"] == (True, False)
    assert found["colour"] == (False, False)
    assert found["blank"] == (True, True)
    assert found["red"] == (False, True)


def test_looks_keep_the_order_and_name_what_is_bad(tmp_path):
    for i in range(40):
        smooth(i, (20 + i, 20)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes((tmp_path / "07.png").read_bytes()[:60])
    found = list(looks([str(tmp_path / f"{i:02d}.png") for i in range(40)]))
    assert isinstance(found[7], Bad)
    widths = [each.width for each in found if isinstance(each, Look)]
    assert widths == [20 + i for i in range(40) if i != 7]


def test_hashes_are_those_of_a_plain_cosine_transform():
    from scipy.fft import dctn

    grey = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    for picture, found in zip(grey, hashes(grey), strict=True):
        # orthonormal scaling differs in the first row and column, so undo it
        waves = dctn(picture.astype(np.float64), type=2)[:8, :8].ravel()[1:]
        bits = waves > np.median(waves)
        assert int(found) == sum(1 << i for i, bit in enumerate(bits) if bit)


def test_near_finds_the_pairs_of_a_search_over_all():
    rng = np.random.default_rng(0)
    base = np.stack([np.asarray(smooth(i, (32, 32)).convert("L")) for i in range(60)])
    noisy = (base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8)
    grey = np.concatenate([base, noisy, base[:5]])
    tint = np.repeat(grey.mean((1, 2))[:, None], 3, 1).astype(np.float32)
    words = [int(word) for word in hashes(grey)]
    values = grey.reshape(len(grey), -1).astype(np.float64)
    alike = np.corrcoef(values) >= 0.98
    wanted = [
        [i, j]
        for i in range(len(grey))
        for j in range(i + 1, len(grey))
        if (words[i] ^ words[j]).bit_count() <= BITS_APART and alike[i, j]
    ]
    assert len(wanted) > 30
    assert near(grey, tint, np.zeros(len(grey), bool)).tolist() == wanted
    assert not len(near(grey, tint, np.ones(len(grey), bool)))


def test_copies_scaled_compressed_or_brightened_are_twins_and_others_are_not(tmp_path):
    original = smooth(1, (200, 160))
    original.save(tmp_path / "0.png")
    original.save(tmp_path / "1.jpg", quality=40)
    original.resize((100, 80)).save(tmp_path / "2.png")
    original.point(lambda level: min(255, level + 12)).save(tmp_path / "3.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes())
    red, green, blue = original.split()
    Image.merge("RGB", (blue, red, green)).save(tmp_path / "5.png")  # other colours
    for i in range(6, 40):
        smooth(i, (200, 160)).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem))
    found = duplicates([seen(path) for path in paths], range(40), ["train"] * 40)
    assert found.exact == [[0, 4]]
    assert found.near == [[0, 1, 2, 3, 4]]
    assert found.crossings == []


def test_twins_across_splits_are_counted_from_the_later_split():
    a, b, c = (of_pixels(np.asarray(smooth(seed))) for seed in range(3))
    brighter = of_pixels(np.asarray(smooth(1).point(lambda level: min(255, level + 8))))
    found = duplicates([a, b, c, a, brighter, c], [2, 3, 5, 7, 11, 13], ["train"] * 3 + ["val"] * 3)
    assert found.exact == [[2, 7], [5, 13]]
    assert found.near == [[3, 11]]
    (crossing,) = found.crossings
    assert (crossing.split, crossing.other, crossing.exact, crossing.near) == ("val", "train", 2, 1)
    assert set(crossing.named) == {(7, 2), (11, 3), (13, 5)}


def test_blank_pictures_are_exact_twins_at_most():
    blank = [of_pixels(np.full((40, 40, 1), level, np.uint8)) for level in (0, 0, 90)]
    found = duplicates(blank, range(3), ["train"] * 3)
    assert (found.exact, found.near) == ([[0, 1]], [])


@pytest.fixture
def set_(tmp_path):
    """Two classes in train and val, a bad file, strangers, and twins of both kinds."""
    root = tmp_path / "set"
    photographs(root / "train" / "cat", 12, seed=1)
    photographs(root / "train" / "dog", 6, size=(30, 90), seed=2)
    photographs(root / "val" / "cat", 3, seed=3)
    photographs(root / "val" / "dog", 3, seed=4)
    (root / "val" / "dog" / "001.png").write_bytes((root / "train/cat/004.png").read_bytes())
    Image.open(root / "train/cat/005.png").save(root / "val/cat/000.png", compress_level=0)
    (root / "train" / "cat" / "011.png").write_bytes(b"no picture")
    (root / "train" / "notes.txt").write_text("1")
    return root


def test_the_document_counts_what_is_there(clctl, set_):
    answer = clctl("data", "scan", set_, "--json")
    found = answer.document
    assert (answer.code, found["schema"], found["pictures"]) == (0, "clctl/data-scan/1", 23)
    assert found["splits"]["train"] == {"pictures": 18, "classes": {"cat": 12, "dog": 6}}
    assert found["splits"]["val"] == {"pictures": 6, "classes": {"cat": 3, "dog": 3}}
    assert [each["id"] for each in found["bad"]] == ["train/cat/011.png"]
    assert found["ignored"] == {".txt": 1}
    short = found["short_side"]
    assert (short["min"], short["median"], short["max"]) == (30, 40, 40)
    filled = [(s["from"], s["below"], s["pictures"]) for s in short["histogram"] if s["pictures"]]
    assert filled == [(24, 32, 6), (32, 48, 17)]
    assert found["aspect"]["longer_than_3_to_2"] == 6
    assert (found["formats"], found["bits"], found["channels"]) == (
        {"PNG": 23},
        {"8": 23},
        {"3": 23},
    )
    (crossing,) = found["duplicates"]["across_splits"]
    assert (crossing["split"], crossing["exact"], crossing["near"]) == ("val", 1, 1)
    assert ["val/dog/001.png", "train/cat/004.png"] in crossing["pairs"]
    (exact,) = found["duplicates"]["exact"]
    assert exact["one_class"] is False
    # one of 24, which is less than data.max_bad
    assert found["recommended"]["data.bad_images"]["value"] == "skip"


def test_the_words_begin_with_what_spoils_a_score(clctl, set_):
    answer = clctl("data", "scan", set_)
    assert answer.out.startswith("DUPLICATES ACROSS SPLITS: 2 of 6 pictures of val (33.3 %)")
    for words in ("train/cat/011.png: not a", "1 .txt", "largest 2.0 times the smallest", "views:"):
        assert words in answer.out
    assert clctl("data", "scan", set_, "-q").out == "23\n"


def test_a_sheet_and_the_document_go_into_a_folder(clctl, set_, tmp_path):
    answer = clctl("data", "scan", set_, "--json", "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out/data-scan.json").read_text()) == answer.document
    with Image.open(tmp_path / "out/sheet.png") as picture:
        assert picture.width > 6 * SIDE
    one = clctl("data", "scan", set_, "-o", tmp_path / "deep/sheet.png", "-q")
    assert one.out.strip() == str(tmp_path / "deep/sheet.png")
    assert (tmp_path / "deep/sheet.png").read_bytes() == (tmp_path / "out/sheet.png").read_bytes()
    assert sorted(os.listdir(tmp_path / "deep")) == ["sheet.png"]


def test_each_tile_shows_its_picture():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    tiles = [Tile(np.full((9, 9, 3), c, np.uint8), "name" * 40, "$x\n\x1b[31m") for c in colours]
    tiles.append(Tile(np.full((300, 20, 1), 77, np.uint8), "grey", ""))
    out = io.BytesIO()
    sheet(tiles * 4, "title", out)
    page = np.asarray(Image.open(out))
    for colour in [*colours, (77, 77, 77)]:
        pixels = int((page == np.array(colour)).all(2).sum())
        whole = SIDE * SIDE if colour != (77, 77, 77) else SIDE * round(20 * SIDE / 300)
        assert pixels >= 4 * whole
        assert pixels < 4 * whole + 200  # and no more than a few of the letters


def test_arrays_are_looked_at_too(clctl, tmp_path):
    images = np.stack([np.asarray(smooth(i, (24, 24))) for i in range(20)])
    images[19] = images[0]
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(20) % 2)
    found = clctl("data", "scan", tmp_path / "set.npz", "--json", "-o", tmp_path / "s.png").document
    assert (found["source"], found["pictures"], found["formats"]) == ("arrays", 20, {"array": 20})
    assert sum(part["pictures"] for part in found["splits"].values()) == 20
    (exact,) = found["duplicates"]["exact"]
    assert exact["one_class"] is False
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_pool_with_twins_says_that_a_split_may_part_them(clctl, tmp_path):
    for name in ("a", "b"):
        photographs(tmp_path / "d" / name, 5, seed=ord(name))
    (tmp_path / "d/a/009.png").write_bytes((tmp_path / "d/a/000.png").read_bytes())
    out = clctl("data", "scan", tmp_path / "d").out
    assert "1 group (2 pictures) of the same bytes" in out
    assert "twins may fall on both sides" in out


def test_a_name_with_a_newline_stays_on_one_line(clctl, tmp_path):
    photographs(tmp_path / "d", 4)
    (tmp_path / "d" / "x\nerror: y.png").write_bytes(b"1")
    assert "'x\\nerror: y.png': not a" in clctl("data", "scan", tmp_path / "d").out


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "there is no folder"),
        (lambda root: root.mkdir(), "picture under"),
        (lambda root: (root.mkdir(), (root / "a.png").write_bytes(b"1")), "can be decoded; a.png"),
    ],
)
def test_nothing_to_look_at_is_refused(clctl, tmp_path, make, words):
    make(tmp_path / "d")
    answer = clctl("data", "scan", tmp_path / "d", "-o", tmp_path / "out")
    assert (answer.code, words in answer.err) == (4, True)
    assert not (tmp_path / "out").exists()


def test_damaged_arrays_are_refused(clctl, tmp_path):
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04")
    answer = clctl("data", "scan", tmp_path / "set.npz", "--json")
    assert (answer.code, answer.document["code"]) == (4, "data.unreadable-file")
