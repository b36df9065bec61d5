"""A folder of pictures: what is found, what is taken for a split or a class, what is refused."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.model_selection import train_test_split

from clctl.console import Exit, Problem
from clctl.data import fingerprint
from clctl.data.feed import Feed
from clctl.data.layout import layout
from clctl.data.open import load, trial
from clctl.data.scan import scan
from clctl.data.sources.folder import Config
from clctl.images import DataSet


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)


def draw(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = Path(name).suffix.lower()
        Image.fromarray(pixels(seed)).save(path, "PNG" if suffix == ".png" else "JPEG")
    return root


def opened(root: Path, **settings) -> DataSet:
    return load(Config(path=str(root), **settings), 32, lambda line: None)


def refused(root: Path, **settings) -> Problem:
    with pytest.raises(Problem) as caught:
        opened(root, **settings)
    assert caught.value.exit == Exit.DATA
    return caught.value


def names(root: Path) -> list[str]:
    return [file.name for file in scan(str(root)).files]


def test_pictures_are_found_at_any_depth_and_in_any_case(tmp_path):
    root = draw(tmp_path / "d", "a.jpg", "b/c.JPEG", "b/d/e.PnG", "f.JPG")
    for other in ("b/x.xcf", "y.xcf", "notes.txt", "README", ".hidden.jpg", "z.JPG.bak"):
        (root / other).write_text("1")
    draw(root, ".git/a.png", "__MACOSX/b.png")
    found = scan(str(root))
    assert [file.name for file in found.files] == ["a.jpg", "b/c.JPEG", "b/d/e.PnG", "f.JPG"]
    assert found.others_in_words() == "2 .xcf, 1 .bak, 1 .txt, 1 without suffix"
    assert "not read: 2 .xcf, 1 .bak, 1 .txt, 1 without suffix" in opened(root).notes


def test_odd_names_are_kept(tmp_path):
    odd = ["a b.png", "line\nbreak.png", "ünïcode ✓.png", "-rf.png", "%s{}.png"]
    root = draw(tmp_path / "d", *odd)
    with open(os.fsencode(root) + b"/raw\xff.png", "wb") as file:
        file.write((root / "-rf.png").read_bytes())
    data = opened(root)
    assert data.splits["train"].ids == sorted([*odd, "raw\\xff.png"])
    for name in data.splits["train"].ids:
        name.encode("utf-8")


def test_links_and_pipes(tmp_path):
    root = draw(tmp_path / "d", "a/0.png", "a/1.png")
    elsewhere = draw(tmp_path / "elsewhere", "b/2.png", "b/3.png")
    (root / "b").symlink_to(elsewhere / "b")
    (root / "link.png").symlink_to(elsewhere / "b" / "2.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "a" / "twin").symlink_to(root / "a")
    (root / "null.png").symlink_to("/dev/null")
    os.mkfifo(root / "pipe.png")
    assert names(root) == ["a/0.png", "a/1.png", "b/2.png", "b/3.png", "link.png"]
    others = scan(str(root)).others
    assert others["links to folders already read"] == 3
    assert others["broken links"] == 2
    assert others["pipes, sockets or devices"] == 2


def test_a_pool_with_class_folders_is_split_as_documented(tmp_path):
    files = [f"{kind}/{i:02}.png" for kind in ("ape", "bee") for i in range(10)]
    data = opened(draw(tmp_path / "d", *files))
    train, test = train_test_split(
        np.arange(20), test_size=0.2, stratify=[0] * 10 + [1] * 10, random_state=0
    )
    for name, rows in (("train", sorted(train)), ("test", sorted(test))):
        split = data.splits[name]
        assert split.ids == [files[row] for row in rows]
        assert split.labels is not None
        assert split.labels.tolist() == [int(row >= 10) for row in rows]
        for at, row in enumerate(rows):
            picture = split.images.canvas[at].permute(1, 2, 0).numpy()
            assert (picture == pixels(row)).all()
    assert data.classes == ("ape", "bee")
    assert "2 classes (ape, bee)" in data.labels_from
    assert "--set data.labels=none" in data.labels_from
    whole = trial(data, "all").test
    assert sorted(whole.ids) == files
    storage = data.splits["train"].images.canvas.untyped_storage().data_ptr()
    assert whole.images.canvas.untyped_storage().data_ptr() == storage  # not copied
    for at, name in enumerate(whole.ids):
        assert (whole.images.canvas[at].permute(1, 2, 0).numpy() == pixels(files.index(name))).all()


def test_labels_none_leaves_one_unlabelled_pool(tmp_path):
    root = draw(tmp_path / "d", "ape/0.png", "bee/1.png", "bee/2.png")
    data = opened(root, labels="none")
    assert data.classes is None
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3}
    assert data.splits["train"].labels is None


@pytest.mark.parametrize("held", ["val", "valid", "Validation", "test", "testing"])
def test_split_folders_are_found(tmp_path, held):
    root = draw(tmp_path / "d", "train/a/0.png", "train/b/1.png", f"{held}/b/2.png", "more/3.png")
    data = opened(root)
    name = "test" if held.startswith("test") else "val"
    assert {split: part.ids for split, part in data.splits.items()} == {
        "train": ["train/a/0.png", "train/b/1.png"],
        name: [f"{held}/b/2.png"],
    }
    labels = data.splits[name].labels
    assert labels is not None
    assert labels.tolist() == [1]
    assert any("1 pictures outside" in note for note in data.notes)


def found(mode, *files: str):
    plan = layout(sorted(files), mode)
    return {part.split: part.labels for part in plan.parts}, plan


def test_flat_pictures_have_no_labels():
    for files in (["0.png", "1.png"], ["x/0.png", "x/1.png"], ["a/0.png", "b/1.png", "2.png"]):
        parts, plan = found("auto", *files)
        assert parts == {"train": None}
        assert plan.labels_from.startswith("no labels: ")
        with pytest.raises(Problem) as caught:
            found("folders", *files)
        assert caught.value.code == "data.no-class-folders"


def test_a_class_called_train_is_no_split():
    parts, plan = found("auto", "bus/0.png", "car/1.png", "train/2.png")
    assert plan.classes == ("bus", "car", "train")
    assert parts == {"train": [0, 1, 2]}
    held = found("auto", "train/0.png", "train/1.png", "val/2.png", "spare/3.png")[0]
    assert held == {"train": None, "val": None}
    assert found("auto", "train/a/0.png", "train/b/1.png")[0] == {"train": [0, 1]}
    assert found("auto", "train/a/0.png", "train/b/1.png", "spare/2.png")[0] == {"train": [0, 1]}


def test_splits_without_train_are_not_classes():
    parts, plan = found("auto", "val/0.png", "test/1.png")
    assert parts == {"train": None}
    assert "there is no train/" in plan.labels_from


def test_an_unlabelled_split_is_said_not_guessed():
    train = ["train/a/0.png", "train/b/1.png"]
    for held in (["test/2.png"], ["test/images/2.png"]):
        parts, plan = found("auto", *train, *held, "val/a/3.png")
        assert parts == {"train": [0, 1], "val": [0], "test": None}
        assert "gives no score" in plan.notes[0]
        with pytest.raises(Problem):
            found("folders", *train, *held)
    with pytest.raises(Problem) as caught:
        found("auto", *train, "val/a/2.png", "val/c/3.png")
    assert caught.value.code == "data.unknown-class"
    assert "c" in caught.value.message
    with pytest.raises(Problem) as caught:
        found("auto", *train, "val/a/2.png", "valid/a/3.png")
    assert caught.value.code == "data.two-splits"


def test_fingerprint_is_over_content_names_and_labels(tmp_path):
    files = ["a/0.png", "a/1.png", "b/2.png", "b/3.png"]
    root = draw(tmp_path / "d", *files)
    first = opened(root).fingerprint
    assert opened(draw(tmp_path / "copy", *files)).fingerprint == first
    os.utime(root / "a/0.png", ns=(5, 5))
    assert opened(root).fingerprint == first
    assert opened(root, short_side=8).fingerprint == first
    assert opened(root, labels="none").fingerprint != first
    os.rename(root / "a/1.png", root / "b/1.png")
    moved = opened(root).fingerprint
    Image.fromarray(pixels(9)).save(root / "b/1.png")
    assert len({first, moved, opened(root).fingerprint}) == 3


def test_folders_that_cannot_be_used(tmp_path):
    assert refused(tmp_path / "nowhere").code == "data.missing"
    (tmp_path / "file.txt").write_text("")
    assert refused(tmp_path / "file.txt").code == "data.not-a-folder"
    (tmp_path / "void").mkdir()
    problem = refused(tmp_path / "void")
    assert problem.code == "data.no-pictures"
    assert "nothing" in problem.message
    (tmp_path / "void" / "scan.dcm").write_text("")
    assert "1 .dcm" in refused(tmp_path / "void").message
    assert refused(draw(tmp_path / "one", "a.png")).code == "data.too-few"


def spoil(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).write_bytes((root / name).read_bytes()[:100])
    return root


def test_bad_pictures_stop_by_default_and_are_named(tmp_path):
    root = draw(tmp_path / "d", *(f"{i:02}.png" for i in range(30)))
    problem = refused(spoil(root, "03.png", "17.png"))
    assert problem.code == "data.bad-images"
    assert "2 pictures of 30" in problem.message
    assert "03.png: " in problem.message
    assert "17.png: " in problem.message
    assert "--set data.bad_images=skip" in str(problem.suggestion)
    spoil(root, *(f"{i:02}.png" for i in range(4, 14)))
    problem = refused(root)
    assert problem.message.count(".png: ") == 10
    assert "and 2 more" in problem.message


def test_bad_pictures_come_before_any_count(tmp_path):
    assert refused(spoil(draw(tmp_path / "d", "a.png", "b.png"), "b.png")).code == "data.bad-images"
    assert refused(spoil(draw(tmp_path / "e", "a.png"), "a.png")).code == "data.bad-images"


def test_bad_pictures_are_skipped_and_counted_on_request(tmp_path):
    root = spoil(draw(tmp_path / "d", *(f"{i:02}.png" for i in range(30))), "03.png")
    data = opened(root, bad_images="skip")
    assert len(data.splits["train"]) == 29
    assert "03.png" not in data.splits["train"].ids
    assert any("1 picture of 30 left out" in note for note in data.notes)
    with pytest.raises(Problem) as caught:
        Feed(data.splits["train"], 30, 0, data.splits["train"].images.canvas.device, False)
    assert caught.value.code == "data.fewer-than-batch"
    (root / "03.png").unlink()
    assert opened(root).fingerprint == data.fingerprint  # as if it had never been there
    problem = refused(spoil(root, "04.png", "05.png"), bad_images="skip")
    assert "a share of 0.069" in problem.message
    assert len(opened(root, bad_images="skip", max_bad=0.1).splits["train"]) == 27


def test_labels_stay_with_their_pictures_where_some_are_skipped(tmp_path):
    files = [
        f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in "012"
    ]
    root = spoil(draw(tmp_path / "d", *files), "train/a/1.png", "val/b/0.png")
    data = opened(root, bad_images="skip", max_bad=0.5)
    for split in data.splits.values():
        assert split.labels is not None
        for row, name in enumerate(split.ids):
            assert data.classes is not None
            assert data.classes[split.labels[row]] == name.split("/")[1]
            picture = split.images.canvas[row].permute(1, 2, 0).numpy()
            assert (picture == pixels(files.index(name))).all()
    assert [len(split) for split in data.splits.values()] == [5, 5]


@pytest.mark.parametrize(
    ("view", "given", "expected"),
    [
        (32, None, 64),
        (64, None, 128),
        (128, None, 256),
        (224, None, 256),
        (300, None, 343),
        (32, 40, 40),
    ],
)
def test_short_side_follows_the_view(tmp_path, view, given, expected):
    root = tmp_path / "d"
    root.mkdir()
    for i in range(2):
        Image.new("L", (420, 400), i).save(root / f"{i}.png")
    data = load(Config(path=str(root), short_side=given), view, lambda line: None)
    assert data.splits["train"].images.sizes[0, 0] == expected
    assert data.splits["train"].images.canvas.shape[1] == 1


def test_settings_out_of_range_are_refused():
    for wrong in ({"max_aspect": 0.9}, {"max_bad": 1.1}, {"short_side": 0}, {"labels": "maybe"}):
        with pytest.raises(ValidationError):
            Config.model_validate({"path": "x", **wrong})


NAMES = [
    "a/0.png",
    'a/"], ["1.jpg',
    "a/\\2.png",
    "b/é中\n\x7f.png",
    "b/\U0001f600.png",
    "c.d/e",
    "x",
]


def test_the_fingerprint_of_files_is_that_of_their_json_lines():
    rng = np.random.default_rng(0)
    pairs = [(name, rng.bytes(32).hex()) for name in NAMES]
    lines = b"".join(json.dumps(pair).encode() + b"\n" for pair in pairs)
    assert fingerprint.of_files(iter(pairs)) == hashlib.sha256(lines).hexdigest()
    digests = [digest for _, digest in pairs]
    assert fingerprint.brief(iter(digests)) == b"".join(bytes.fromhex(d)[:8] for d in digests)


def test_names_and_suffixes_are_told_as_the_system_does(tmp_path):
    for name in ("a.b/c.JPG", "a.b/d", "e..png", "f.", "g.tar.gz", "h.d.jpeg", "é/ü.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = scan(str(tmp_path))
    assert [file.name for file in found.files] == ["a.b/c.JPG", "e..png", "h.d.jpeg", "é/ü.png"]
    for file in found.files:
        told = os.stat(tmp_path / file.name)
        assert file[2:] == (told.st_size, told.st_mtime_ns)
        assert file.path == str(tmp_path / file.name)
    left = [os.path.splitext(name)[1] or "without suffix" for name in ("a.b/d", "f.", "g.tar.gz")]
    assert found.others == dict.fromkeys(left, 1)
