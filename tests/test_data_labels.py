"""Labels from a table, and folders that are taken for classes or not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from clctl.console import Exit, Problem
from clctl.data import scan as scanning
from clctl.data.feed import Feed
from clctl.data.layout import layout
from clctl.data.open import load, trial
from clctl.data.plausible import doubt
from clctl.data.scan import scan
from clctl.data.sources.folder import Config
from clctl.images import DataSet
from clctl.recipe.identity import weights_part
from clctl.recipe.read import find, read
from clctl.recipe.saved import with_data


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))


def draw(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    return root


def table(path: Path, *rows: str, end: str = "\n", start: str = "path,label") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(row + end for row in (start, *rows)).encode())
    return str(path)


def opened(root: Path, **settings) -> DataSet:
    return load(Config(path=str(root), **settings), 32, lambda line: None)


def refused(root: Path, **settings) -> Problem:
    with pytest.raises(Problem) as caught:
        opened(root, **settings)
    assert caught.value.exit == Exit.DATA
    assert caught.value.suggestion
    return caught.value


def known(data: DataSet) -> dict[str, str]:
    """Class by id, over all labelled splits."""
    assert data.classes is not None
    return {
        name: data.classes[label]
        for split in data.splits.values()
        if split.labels is not None
        for name, label in zip(split.ids, split.labels.tolist(), strict=True)
    }


FLAT = [f"{i:02}.png" for i in range(20)]


def kind(i: int) -> str:
    return "ape" if i % 2 else "bee"


def test_a_table_labels_flat_pictures_which_are_split_as_documented(tmp_path):
    root = draw(tmp_path / "d", *FLAT)
    file = table(tmp_path / "l.csv", *(f"{name},{kind(i)}" for i, name in enumerate(FLAT)))
    data = opened(root, labels=file)
    assert data.classes == ("ape", "bee")
    assert known(data) == {name: kind(i) for i, name in enumerate(FLAT)}
    labels = [1 - i % 2 for i in range(20)]
    train, _ = train_test_split(np.arange(20), test_size=0.2, stratify=labels, random_state=0)
    assert data.splits["train"].ids == [FLAT[i] for i in sorted(train)]
    assert "l.csv: 2 classes (ape, bee) of 10 pictures, 20 of 20 labelled" in data.labels_from
    assert data.pool is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path, end):
    odd = ["a, b.png", 'q"q.png', "sub/ünï.png", "x.png", "y.png"]
    root = draw(tmp_path / "d", *odd)
    rows = ['"a, b.png",3,"big, cat"', '"q""q.png",1,dog', "sub\\ünï.png,2,dog", "", "./x.png,,"]
    rows += [f"{root}/y.png,5,  dog "]
    file = table(root / "l.csv", *rows, end=end, start="\ufeffPath,id,LABEL")
    data = opened(root, labels=file)
    assert known(data) == {"a, b.png": "big, cat", 'q"q.png': "dog", odd[2]: "dog", "y.png": "dog"}
    assert data.pool is not None
    assert sorted(data.pool.ids) == sorted(odd)
    assert "1 row of l.csv with an empty label count as unlabelled" in data.notes
    assert not any(note.startswith("not read") for note in data.notes)


def test_paths_count_from_the_pictures_or_from_the_table(tmp_path):
    root = draw(tmp_path / "d", "in/0.png", "in/1.png", "2.png")
    rows = ["../d/in/0.png,a", "in/1.png,b", "../d/2.png,b"]
    data = opened(root, labels=table(tmp_path / "tables/l.csv", *rows))
    assert known(data) == {"in/0.png": "a", "in/1.png": "b", "2.png": "b"}
    data = opened(root, labels=table(root / "in/l.csv", "0.png,a", "1.png,b", "2.png,b"))
    assert known(data) == {"in/0.png": "a", "in/1.png": "b", "2.png": "b"}


def test_numbers_are_classes_in_their_order(tmp_path):
    root = draw(tmp_path / "d", *FLAT)
    file = table(tmp_path / "l.csv", *(f"{name},{i % 12}" for i, name in enumerate(FLAT)))
    assert opened(root, labels=file).classes == tuple(str(i) for i in range(12))


def test_what_has_no_label_is_trained_on_and_not_scored(tmp_path):
    root = draw(tmp_path / "d", *FLAT)
    some = {name: kind(i) for i, name in enumerate(FLAT[:10])}
    file = table(tmp_path / "l.csv", *(f"{name},{label}" for name, label in some.items()))
    data = opened(root, labels=file)
    assert known(data) == some
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 8, "test": 2}
    pool = data.learnt(False)
    assert sorted(pool.ids) == sorted(set(FLAT) - set(data.splits["test"].ids))
    for row, name in enumerate(pool.ids):
        expected = np.asarray(Image.open(root / name))
        assert (pool.images.canvas[row].permute(1, 2, 0).numpy() == expected).all()
    assert pool.labels is None
    store = pool.images.canvas.untyped_storage().data_ptr()
    assert trial(data, "all").test.images.canvas.untyped_storage().data_ptr() == store
    assert sorted(trial(data, "all").test.ids) == sorted(some)
    device = pool.images.canvas.device
    assert Feed(pool, 16, 0, device, False).per_epoch == 1
    assert Feed(data.learnt(True), 8, 0, device, True).per_epoch == 1
    assert any(note.startswith("10 pictures without a label: not scored") for note in data.notes)
    assert "10 of 20 labelled" in data.labels_from


def test_split_folders_still_split(tmp_path):
    names = [f"{split}/{i}.png" for split in ("train", "test") for i in range(6)]
    root = draw(tmp_path / "d", *names, "more/9.png")
    rows = [f"{name},{kind(i)}" for i, name in enumerate(names) if i % 6 < 4]
    data = opened(root, labels=table(root / "l.csv", *rows))
    assert data.splits["train"].ids == names[:4]
    assert data.splits["test"].ids == names[6:10]
    assert data.pool is not None
    assert data.pool.ids == [*names[4:6], *names[:4]]
    assert "2 pictures in test/ without a label left out" in data.notes
    assert any("1 pictures outside of train/, test/" in note for note in data.notes)
    data = opened(root, labels=table(root / "l.csv", *rows[:4]))
    assert data.splits["test"].labels is None
    assert "l.csv labels nothing in test/, so it gives no score" in data.notes
    strange = table(root / "l.csv", *rows[:4], "test/1.png,cat")
    assert refused(root, labels=strange).code == "data.unknown-class"
    nothing = table(root / "l.csv", *rows[4:])
    assert "labels no picture of train/" in refused(root, labels=nothing).message


def test_rows_twice_are_fine_alike_and_refused_where_they_differ(tmp_path):
    root = draw(tmp_path / "d", "0.png", "1.png")
    rows = ["0.png,a", "1.png,b", "./0.png,a"]
    assert (
        "1 row of l.csv repeat another"
        in opened(root, labels=table(tmp_path / "l.csv", *rows)).notes
    )
    problem = refused(root, labels=table(tmp_path / "l.csv", *rows, "1.png,a"))
    assert problem.line == 5
    assert "calls 1.png 'a', and line 3 'b'" in problem.message


def test_rows_without_a_picture_stop_or_are_skipped_like_bad_pictures(tmp_path):
    root = draw(tmp_path / "d", "0.png", "1.png", "2.png")
    rows = ["0.png,a", "1.png,b", "gone.png,b", "2.png,b"]
    file = table(tmp_path / "l.csv", *rows)
    problem = refused(root, labels=file)
    assert problem.code == "data.labels-without-picture"
    assert "1 row of 4 in l.csv" in problem.message
    assert "gone.png (line 4)" in problem.message
    assert "data.bad_images=skip" in str(problem.suggestion)
    data = opened(root, labels=file, bad_images="skip", max_bad=0.25)
    assert len(known(data)) == 3
    assert any("gone.png (line 4)" in note for note in data.notes)
    assert "data.max_bad (0.2)" in str(
        refused(root, labels=file, bad_images="skip", max_bad=0.2).suggestion
    )


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"0.png,a\n1.png,b\n", 1, "columns path and label"),
        (b"path;label\n0.png;a\n", 1, "columns path and label"),
        (b"path,label,label\n", 1, "columns path and label"),
        (b"path,label\n0.png,a\na, b.png,b\n", 3, "has 3 cells"),
        (b"path,label\n0.png\n", 2, "has 1 cells"),
        (b'path,label\n0.png,a\n"1.png,b\n', 3, "is no CSV"),
        (b"path,label\n0.png,\xff\n", None, "not UTF-8"),
        (b"path,label\n0.png,a\n1.png,a\n", None, "a single class (a)"),
        (b"path,label\n", None, "no picture"),
        (b"", None, "no picture"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, line, words):
    root = draw(tmp_path / "d", "0.png", "1.png")
    (tmp_path / "l.csv").write_bytes(content)
    problem = refused(root, labels=str(tmp_path / "l.csv"))
    assert words in problem.message
    assert problem.line == line
    assert str(tmp_path / "l.csv") in problem.message
    assert "No such file" in refused(root, labels=str(tmp_path / "none.csv")).message


def test_where_a_table_is_named(tmp_path, monkeypatch):
    root = draw(tmp_path / "d", *FLAT)
    file = table(root / "l.csv", *(f"{name},{kind(i)}" for i, name in enumerate(FLAT)))
    monkeypatch.chdir(tmp_path)
    recipe = read(find("folder"), ("data.labels=d/l.csv",), "d")
    assert recipe.data.labels == file  # type: ignore[attr-defined]
    assert read(find("folder"), (), "d/l.csv").data == recipe.data
    os.rename(root / "l.csv", tmp_path / "moved.csv")
    moved = read(find("folder"), ("data.labels=moved.csv",), "d")
    assert weights_part(moved, "0", None) == weights_part(recipe, "0", None)
    assert with_data(recipe, str(tmp_path)).data.labels == "auto"  # type: ignore[attr-defined]
    kept = read(find("folder"), ("data.labels=folders",), "d")
    assert with_data(kept, str(tmp_path)).data.labels == "folders"  # type: ignore[attr-defined]
    with pytest.raises(Problem) as caught:
        read(find("folder"), ("data.labels=maybe",), "d")
    assert caught.value.exit == Exit.RECIPE


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["2019", "2020-05", "2021"], "the folders 2019, 2020-05, 2021 look like dates"),
        (["20200517", "20200518_party"], "dates"),
        (["2020-05-17 Rome", "2021_Oslo"], "dates"),
        (["17.05.2020", "1-6-21"], "dates"),
        (["100CANON", "101MSDCF", "102_PANA"], "camera folders"),
        (["IMG_2041", "DSC01234", "DCIM"], "camera folders"),
        (["Camera Roll", "screenshots"], "camera folders"),
        (["new folder", "New Folder (2)"], "unnamed folders"),
        (["part1", "part2"], "numbered parts"),
        (["images_001", "images_002"], "numbered parts"),
        (["2023", "holiday", "IMG_2041"], "dates and camera folders"),
    ],
)
def test_folders_that_are_no_classes(folders, words):
    names = [f"{folder}/{i}.png" for folder in folders for i in range(9)]
    plan = layout(names, "auto")
    assert plan.classes is None
    assert words in plan.labels_from
    assert plan.labels_from.endswith(
        "not classes; training with --set data.labels=folders takes them"
    )
    assert layout(names, "folders").classes == tuple(sorted(folders))


@pytest.mark.parametrize(
    "folders",
    [
        ["cat", "dog"],
        [str(i) for i in range(10)],
        [f"n0{2085620 + i}" for i in range(5)],
        [f"{i:03}.Black_footed_Albatross" for i in range(1, 4)],
        [f"{i:05}" for i in range(43)],
        ["Acura TL 2012", "Audi A5 2012"],
        ["cat", "dog", "2020"],
        ["200 birds", "100m", "1 euro", "5x5"],
        [str(i) for i in range(0, 4000, 100)],
        ["normal", "pneumonia", "class_1", "IMG"],
    ],
)
def test_folders_that_may_be_classes(folders):
    assert doubt(dict.fromkeys(folders, 5)) is None
    plan = layout([f"{folder}/{i}.png" for folder in folders for i in range(5)], "auto")
    assert plan.classes == tuple(sorted(folders))
    assert f"{len(folders)} classes (" in plan.labels_from
    assert "of 5 pictures; if they are no classes" in plan.labels_from


def test_folders_with_hardly_a_picture_each_are_no_classes():
    many = {f"person {i}": 1 for i in range(30)}
    assert "30 pictures in 30 folders" in str(doubt(many))
    assert "59 pictures in 30 folders" in str(doubt({**many, "person 0": 30}))
    assert doubt({**many, "person 0": 31}) is None
    assert doubt({f"person {i}": 1 for i in range(19)}) is None


def test_folders_in_class_folders_are_said_to_belong_to_them():
    def notes(*names: str) -> list[str]:
        plan = layout(sorted(names), "auto")
        assert plan.classes == ("a", "b")
        return plan.notes

    assert notes("a/c/0.png", "a/1.png", "b/2.png") == [
        "folders below a class belong to it: a/c is a"
    ]
    assert notes("train/a/c/0.png", "train/a/d/1.png", "train/b/d/2.png", "train/b/3.png") == [
        "folders below a class belong to it: a/c is a (such folders are in 2 classes)"
    ]
    assert notes("a/images/0.png", "b/images/1.png") == []


def test_a_folder_that_changes_while_it_is_read(tmp_path, monkeypatch):
    root = draw(tmp_path / "d", "a/0.png", "a/1.png", "b/2.png", "b/3.png")
    real = scanning._entries

    def entries(place: str):
        found = real(place)
        if place.endswith("/a"):
            (root / "b/2.png").unlink()
            (root / "b/3.png").unlink()
            (root / "b").rmdir()
        return found

    monkeypatch.setattr(scanning, "_entries", entries)
    problem = refused(root)
    assert problem.code == "data.unreadable-folder"
    assert "start again" in str(problem.suggestion)


def test_a_long_search_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "HEARTBEAT", 0.0)
    said: list[str] = []
    scan(str(draw(tmp_path / "d", "0.png", "1.png")), said.append)
    assert said[-1].startswith("found 2 pictures so far under ")


def test_shelves_of_a_dump_are_no_classes():
    shelves = {f"{i:03d}": 1000 for i in range(12)}
    assert str(doubt(shelves)) == (
        "the folders 000, 001, 002, 003, 004 and 7 more look like a dump in shelves of 1,000"
    )
    assert doubt({**shelves, "012": 40}) is not None
    assert doubt({**shelves, "005": 999}) is None
    assert doubt({f"{i:03d}": 500 for i in range(100)}) is None  # classes of one size
    assert doubt({f"{i}": 1000 for i in range(10)}) is None  # digits
