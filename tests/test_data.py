"""Digits, arrays, the split rule, the feed, and what an evaluation takes from a data set."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from clctl.console import Exit, Problem
from clctl.data.feed import Feed
from clctl.data.open import load, trial
from clctl.data.sources import arrays, digits
from clctl.data.split import stratified
from clctl.images import DataSet, Images, Split

CPU = torch.device("cpu")


def quiet(line: str) -> None:
    pass


def made(count: int = 20, channels: int = 3, seed: int = 0, side: tuple[int, int] = (6, 5)):
    shape = (count, *side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def opened(path: Path) -> DataSet:
    return load(arrays.Config(path=str(path)), 8, quiet)


def refused(path: Path) -> Problem:
    with pytest.raises(Problem) as caught:
        opened(path)
    assert caught.value.exit == Exit.DATA
    assert caught.value.suggestion
    return caught.value


def ints(labels: torch.Tensor | None) -> list[int]:
    assert labels is not None
    return labels.tolist()


def lines(split: Split) -> np.ndarray:
    return split.images.canvas.permute(0, 2, 3, 1).numpy()


def a_split(count: int, name: str = "train", labelled: bool = True) -> Split:
    canvas = torch.from_numpy(made(count)).permute(0, 3, 1, 2)
    images = Images(canvas, torch.tensor([[6, 5]]).expand(count, 2))
    labels = torch.arange(count) % 3 if labelled else None
    return Split(name, images, labels, [str(i) for i in range(count)])


def test_digits_are_scikit_learns_split_as_documented():
    data = load(digits.Config(), 8, quiet)
    grey, target = load_digits(return_X_y=True)
    rows = np.arange(1797)
    train, test = train_test_split(rows, test_size=0.2, stratify=target, random_state=0)
    for name, at in (("train", np.sort(train)), ("test", np.sort(test))):
        split = data.splits[name]
        levels = split.images.canvas[:, 0].numpy().astype(float) * 16 / 255
        assert np.abs(levels - grey.reshape(-1, 8, 8)[at]).max() < 0.04
        assert ints(split.labels) == target[at].tolist()
        assert split.ids == [str(i) for i in at]
        assert split.images.canvas.shape[1:] == (1, 8, 8)
        assert split.images.canvas.permute(0, 2, 3, 1).is_contiguous()
    assert data.splits["train"].images.canvas.max() == 255
    assert data.classes == tuple("0123456789")
    assert data.fingerprint == load(digits.Config(), 64, quiet).fingerprint


def test_a_class_with_one_image_keeps_the_pool_whole():
    rows, note = stratified(torch.tensor([0] * 10 + [1]))
    assert list(rows) == ["train"]
    assert len(rows["train"]) == 11
    assert "single image" in str(note)
    rows, note = stratified(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert list(rows) == ["train"]
    assert "3 classes" in str(note)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_read_as_written(tmp_path, compressed):
    images, labels = made(), np.arange(20) % 2
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "train.npz", images=images, labels=labels, classes=np.array(["cat", "dog"]))
    save(tmp_path / "test.npz", images=images[:7], labels=labels[:7])
    data = opened(tmp_path)
    assert (lines(data.splits["train"]) == images).all()
    assert (lines(data.splits["test"]) == images[:7]).all()
    assert ints(data.splits["train"].labels) == labels.tolist()
    assert data.splits["train"].images.sizes.tolist() == [[6, 5]] * 20
    assert data.classes == ("cat", "dog")
    assert "cat, dog" in data.labels_from


def test_uncompressed_npz_is_mapped_not_copied(tmp_path):
    np.savez(tmp_path / "set.npz", images=made())
    canvas = opened(tmp_path / "set.npz").splits["train"].images.canvas
    at = (tmp_path / "set.npz").read_bytes().find(made().tobytes())
    with open(tmp_path / "set.npz", "r+b") as file:
        file.seek(at)
        file.write(b"\x07")
    assert canvas[0, 0, 0, 0] == 7  # seen through the map


def test_safetensors_with_classes_in_the_metadata(tmp_path):
    images, labels = torch.from_numpy(made(channels=1))[..., 0], torch.arange(20) % 2
    save_file(
        {"images": images, "labels": labels},
        tmp_path / "set.safetensors",
        {"classes": json.dumps(["cat", "dog"])},
    )
    data = opened(tmp_path / "set.safetensors")
    assert data.classes == ("cat", "dog")
    train, test = data.splits["train"], data.splits["test"]
    assert (len(train), len(test)) == (16, 4)
    for split in (train, test):
        for row, name in enumerate(split.ids):
            assert (split.images.canvas[row, 0] == images[int(name)]).all()
            assert ints(split.labels)[row] == labels[int(name)]


def test_labels_without_classes_are_numbered_by_value(tmp_path):
    np.savez(tmp_path / "train.npz", images=made(4), labels=[30, -7, 30, 12])
    np.savez(tmp_path / "val.npz", images=made(1), labels=[12])
    data = opened(tmp_path)
    assert data.classes == ("-7", "12", "30")
    assert ints(data.splits["train"].labels) == [2, 0, 2, 1]
    assert ints(data.splits["val"].labels) == [1]


def test_fingerprint_is_over_content_and_labels(tmp_path):
    def of(name: str, **members) -> str:
        np.savez(tmp_path / f"{name}.npz", **members)
        return opened(tmp_path / f"{name}.npz").fingerprint

    images, labels = made(), np.arange(20) % 2
    first = of("a", images=images, labels=labels)
    save_file(
        {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)},
        tmp_path / "b.safetensors",
    )
    assert opened(tmp_path / "b.safetensors").fingerprint == first
    other = images.copy()
    other[3, 2, 1, 0] ^= 1
    names = np.array(["x", "y"])
    assert (
        len(
            {
                first,
                of("c", images=other, labels=labels),
                of("d", images=images, labels=1 - labels),
                of("e", images=images, labels=labels, classes=names),
                of("f", images=images),
                of("g", images=images.reshape(20, 5, 6, 3), labels=labels),
            }
        )
        == 6
    )


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"pictures": made()}, "no array called images"),
        ({"images": made().astype(np.float32)}, "float32"),
        ({"images": made().transpose(0, 3, 1, 2)}, "[20, 3, 6, 5]"),
        ({"images": made(channels=4)}, "[20, 6, 5, 4]"),
        ({"images": made()[0, 0]}, "[5, 3]"),
        ({"images": made(0)}, "empty"),
        ({"images": made(1)}, "single image"),
        ({"images": made(), "labels": np.zeros(19, int)}, "[19]"),
        ({"images": made(), "labels": np.zeros((20, 1), int)}, "[20, 1]"),
        ({"images": made(), "labels": np.zeros(20)}, "float64"),
        ({"images": made(), "labels": np.full(20, 2), "classes": ["a", "b"]}, "0 to 1"),
        ({"images": made(), "labels": np.zeros(20, int), "classes": ["a", "a"]}, "twice"),
        ({"images": made(), "labels": np.zeros(20, int), "classes": [1, 2]}, "list of text"),
        ({"images": made(), "labels": np.array([{}] * 20)}, "Python objects"),
        ({"images": np.array([{}] * 20)}, "Python objects"),
    ],
)
def test_malformed_arrays_are_named(tmp_path, members, words):
    np.savez(tmp_path / "set.npz", **members)
    problem = refused(tmp_path / "set.npz")
    assert words in problem.message
    assert "set.npz" in problem.message


def test_channels_first_is_told_how_to_mend_it(tmp_path):
    np.savez(tmp_path / "set.npz", images=made().transpose(0, 3, 1, 2))
    assert "transpose(0, 2, 3, 1)" in str(refused(tmp_path / "set.npz").suggestion)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_cut_short_anywhere_are_refused(tmp_path, suffix):
    path = tmp_path / f"set.{suffix}"
    if suffix == "npz":
        np.savez(path, images=made(), labels=np.arange(20) % 2)
    else:
        save_file({"images": torch.from_numpy(made())}, path)
    whole = path.read_bytes()
    for cut in sorted({0, 1, 7, 8, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:cut])
        assert refused(path).code == "data.unreadable-file"


def test_a_flipped_byte_fails_the_checksum(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=made(200))
    data = bytearray(path.read_bytes())
    data[data.find(made(200).tobytes()) + 10_000] ^= 1
    path.write_bytes(data)
    assert "checksum" in refused(path).message


def test_a_header_that_lies_about_the_size(tmp_path):
    np.save(tmp_path / "images.npy", made())
    data = (tmp_path / "images.npy").read_bytes().replace(b"(20, 6,", b"(99, 6,")
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", data)
    assert "length" in refused(tmp_path / "set.npz").message


def test_files_that_do_not_fit_together(tmp_path):
    assert refused(tmp_path / "nowhere.npz").code == "data.missing"
    assert "data.name=folder" in str(refused(tmp_path).suggestion)
    (tmp_path / "set.csv").write_text("1")
    assert refused(tmp_path / "set.csv").code == "data.wrong-suffix"
    np.savez(tmp_path / "train.npz", images=made(4), labels=[0, 1, 2, 3])
    np.savez(tmp_path / "test.npz", images=made(1), labels=[4])
    assert "test.npz has 1 labels outside of those of train.npz" in refused(tmp_path).message
    np.savez(tmp_path / "test.npz", images=made(1, channels=1))
    assert "grey" in refused(tmp_path).message
    save_file({"images": torch.from_numpy(made())}, tmp_path / "train.safetensors")
    assert refused(tmp_path).code == "data.two-splits"


def test_feed_is_pure_in_the_step():
    split = a_split(50)
    feed = Feed(split, 8, 3, CPU, True)
    assert feed.per_epoch == 6
    forward = [feed.rows(step).tolist() for step in range(18)]
    other = Feed(split, 8, 3, CPU, False)
    assert [other.rows(step).tolist() for step in reversed(range(18))] == forward[::-1]
    for epoch in range(3):
        rows = [row for step in forward[6 * epoch : 6 * epoch + 6] for row in step]
        assert len(set(rows)) == 48
    assert forward[:6] != forward[6:12]
    assert Feed(split, 8, 4, CPU, False).rows(0).tolist() != forward[0]


def test_feed_starts_anywhere_and_gives_the_right_images():
    split = a_split(50)
    feed = Feed(split, 8, 0, CPU, True)
    for step, (images, labels) in zip(range(7, 14), feed.batches(7), strict=False):
        rows = feed.rows(step)
        assert (images.canvas == split.images.canvas[rows]).all()
        assert (images.sizes == split.images.sizes[rows]).all()
        assert images.canvas.permute(0, 2, 3, 1).is_contiguous()
        assert split.labels is not None
        assert labels is not None
        assert (labels == split.labels[rows]).all()
    assert next(Feed(split, 8, 0, CPU, False).batches(0))[1] is None


def test_feed_refuses_less_than_a_batch():
    with pytest.raises(Problem) as caught:
        Feed(a_split(50), 64, 0, CPU, False)
    problem = caught.value
    assert (problem.code, problem.exit) == ("data.fewer-than-batch", Exit.DATA)
    assert "50 images" in problem.message
    assert "64" in problem.message
    assert "--set train.batch_size=32" in str(problem.suggestion)
    assert Feed(a_split(50), 50, 0, CPU, False).per_epoch == 1
    with pytest.raises(Problem) as caught:
        Feed(a_split(50, labelled=False), 8, 0, CPU, True)
    assert caught.value.code == "data.no-labels"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("resident", [True, False])
def test_feed_on_cuda_gives_the_same_batches(resident, monkeypatch):
    if not resident:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    split, cuda = a_split(50), torch.device("cuda")
    feed, plain = Feed(split, 8, 0, cuda, True), Feed(split, 8, 0, CPU, True)
    assert feed.resident is resident
    for _, mine, theirs in zip(range(20), feed.batches(3), plain.batches(3), strict=False):
        assert mine[0].canvas.device.type == "cuda"
        assert mine[0].canvas.permute(0, 2, 3, 1).is_contiguous()
        assert (mine[0].canvas.cpu() == theirs[0].canvas).all()
        assert (mine[0].sizes == theirs[0].sizes).all()
        assert ints(mine[1]) == ints(theirs[1])


def a_set(**labelled: bool) -> DataSet:
    splits = {name: a_split(9, name, has) for name, has in labelled.items()}
    return DataSet("set", splits, ("a", "b", "c"), "0", "words")


@pytest.mark.parametrize(
    ("parts", "asked", "expected"),
    [
        (("train", "test"), None, ("train", None, "test")),
        (("train", "val"), None, ("train", None, "val")),
        (("train", "val"), "test", ("train", None, "val")),
        (("train", "val", "test"), None, ("train", "val", "test")),
        (("train", "val", "test"), "val", ("train", None, "val")),
        (("train", "val", "test"), "train", (None, None, "train")),
        (("train", "val", "test"), "all", (None, None, "all")),
        (("train",), None, (None, None, "train")),
    ],
)
def test_trial_takes_the_parts_asked_for(parts, asked, expected):
    found = trial(a_set(**dict.fromkeys(parts, True)), asked)
    names = (found.train and found.train.name, found.choose and found.choose.name, found.test.name)
    assert names == expected


def test_all_is_everything_once():
    data = a_set(train=True, test=True)
    found = trial(data, "all").test
    train, test = data.splits["train"], data.splits["test"]
    assert (lines(found) == np.concatenate([lines(train), lines(test)])).all()
    assert ints(found.labels) == ints(train.labels) + ints(test.labels)
    assert found.ids[0] == "train/0"
    assert found.ids[9] == "test/0"


def test_trial_passes_over_what_has_no_labels():
    assert trial(a_set(train=True, val=True, test=False), None).test.name == "val"
    with pytest.raises(Problem) as caught:
        trial(a_set(train=False), None)
    assert caught.value.code == "data.no-labels"
    for asked in ("val", "test", "holdout"):
        with pytest.raises(Problem) as caught:
            trial(a_set(train=True), asked)
        assert caught.value.code == "data.no-such-split"
