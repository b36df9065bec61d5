"""Data sets with names: read from files in their authors' formats, fetched only when told to."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import STL10, FashionMNIST

from clctl.console import Exit, Problem
from clctl.data.open import load, trial
from clctl.data.sources import cifar10, cifar100, fashion_mnist, imagenet, stl10
from clctl.images import DataSet
from clctl.recipe.identity import weights_part
from clctl.recipe.read import find, read
from tests.conftest import photographs

SOURCES = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "fashion_mnist": fashion_mnist,
}
NAMES = [f"class {i}" for i in range(10)]


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def planes(pictures: np.ndarray) -> np.ndarray:
    """[N, H, W, C] as rows of red, then green, then blue."""
    return pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)


def write_cifar10(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    labels = np.arange(40, dtype=np.uint8) % 10
    train, test = pixels(40, 32, 32, 3), pixels(10, 32, 32, 3, seed=1)
    rows = np.column_stack([labels, planes(train)])
    for i in range(5):
        rows[8 * i : 8 * i + 8].tofile(folder / f"data_batch_{i + 1}.bin")
    np.column_stack([labels[:10], planes(test)]).tofile(folder / "test_batch.bin")
    return {"train": (train, labels), "test": (test, labels[:10])}


def write_cifar100(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "fine_label_names.txt").write_text("".join(f"fine {i}\n" for i in range(100)))
    written = {}
    for split, count in (("train", 100), ("test", 20)):
        pictures, fine = pixels(count, 32, 32, 3, seed=count), np.arange(count, dtype=np.uint8)
        np.column_stack([fine // 5, fine, planes(pictures)]).tofile(folder / f"{split}.bin")
        written[split] = pictures, fine
    return written


def write_stl10(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    written = {}
    for part, count in (("unlabeled", 30), ("train", 20), ("test", 10)):
        pictures, labels = pixels(count, 96, 96, 3, seed=count), np.arange(count) % 10
        pictures.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")  # channel, column, row
        if part != "unlabeled":
            (labels + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
        written[part] = pictures, labels
    return written


def write_fashion(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    written = {}
    for split, begins, count in (("train", "train", 40), ("test", "t10k", 10)):
        pictures, labels = pixels(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8) % 10
        for what, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            magic = bytes([0, 0, 8, array.ndim])  # 8: unsigned bytes
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{begins}-{what}-ubyte").write_bytes(magic + sizes + array.tobytes())
        written[split] = pictures[..., None], labels
    return written


WRITE = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "stl10": write_stl10,
    "fashion_mnist": write_fashion,
}


def opened(name: str, root: Path | None, download: bool = False) -> DataSet:
    config = SOURCES[name].Config(root=None if root is None else str(root))
    return load(config, 32, lambda line: None, download)


@pytest.mark.parametrize("name", WRITE)
def test_every_pixel_and_label_arrives(tmp_path, name):
    written = WRITE[name](tmp_path)
    found = opened(name, tmp_path)
    assert list(found.splits) == ["train", "test"]
    assert found.name == name
    for split in ("train", "test"):
        part, (pictures, labels) = found.splits[split], written[split]
        assert part.images.canvas.dtype == torch.uint8
        lines = part.images.canvas.permute(0, 2, 3, 1)
        assert lines.is_contiguous()
        assert (lines.numpy() == pictures).all()
        assert part.images.sizes.tolist() == [list(pictures.shape[1:3])] * len(pictures)
        assert part.labels is not None
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == labels.tolist()
        assert list(part.ids) == [str(i) for i in range(len(pictures))]
    assert found.classes is not None
    assert found.classes[1] in ("class 1", "fine 1", "Trouser")
    assert len(found.classes) == (100 if name == "cifar100" else 10)
    assert f"{len(found.classes)} classes" in found.labels_from
    assert trial(found, None).protocol == "train to test"


@pytest.mark.parametrize("name", WRITE)
def test_the_fingerprint_is_that_of_the_content(tmp_path, name):
    for folder in ("a", "b"):
        WRITE[name](tmp_path / folder)
    one, other = (opened(name, tmp_path / folder).fingerprint for folder in ("a", "b"))
    assert one == other
    archive = SOURCES[name].ARCHIVE
    path = max((tmp_path / "b" / archive.folder).iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert opened(name, tmp_path / "b").fingerprint != one


def test_what_torchvision_reads_of_the_same_files(tmp_path, monkeypatch):
    write_stl10(tmp_path)
    write_fashion(tmp_path)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    for name, kind in (("stl10", STL10), ("fashion_mnist", FashionMNIST)):
        found = opened(name, tmp_path)
        for split in ("train", "test"):
            where = {"split": split} if kind is STL10 else {"train": split == "train"}
            theirs = kind(tmp_path, **where)
            part = found.splits[split]
            assert part.labels is not None
            for i in (0, 7):
                picture, label = theirs[i]
                mine = part.images.canvas[i].permute(1, 2, 0).squeeze(2).numpy()
                assert (mine == np.asarray(picture)).all()
                assert int(part.labels[i]) == label


def test_stl10_learns_from_all_and_is_scored_on_labels(tmp_path):
    written = write_stl10(tmp_path)
    found = opened("stl10", tmp_path)
    pool = found.learnt(labels=False)
    assert (len(pool), pool.labels) == (50, None)
    both = np.concatenate([written["unlabeled"][0], written["train"][0]])
    assert (pool.images.canvas.permute(0, 2, 3, 1).numpy() == both).all()
    train = found.learnt(labels=True)
    assert train is found.splits["train"]
    assert train.images.canvas.untyped_storage().data_ptr() == (
        pool.images.canvas.untyped_storage().data_ptr()
    )
    assert "reads 50 pictures: 30 unlabelled ones and the 20 of train" in found.notes[0]
    parts = trial(found, None)
    assert parts.train is not None
    assert (len(parts.train), len(parts.test)) == (20, 10)


def test_without_a_pool_pretraining_reads_train(tmp_path):
    write_cifar10(tmp_path)
    found = opened("cifar10", tmp_path)
    assert found.learnt(labels=False) is found.learnt(labels=True) is found.splits["train"]


@pytest.mark.parametrize("name", WRITE)
def test_a_missing_file_names_the_folder_and_the_flag(tmp_path, name):
    WRITE[name](tmp_path)
    archive = SOURCES[name].ARCHIVE
    (tmp_path / archive.folder / archive.files[1]).unlink()
    with pytest.raises(Problem) as caught:
        opened(name, tmp_path)
    assert (caught.value.exit, caught.value.code) == (Exit.DATA, "data.not-downloaded")
    assert f"{tmp_path}: {archive.folder}/{archive.files[1]} is missing" in caught.value.message
    assert "clctl pretrain ... --download" in str(caught.value.suggestion)
    assert archive.url in str(caught.value.suggestion)


@pytest.mark.parametrize("name", WRITE)
def test_cut_short_anywhere_is_a_problem_that_names_the_file(tmp_path, name):
    WRITE[name](tmp_path)
    archive = SOURCES[name].ARCHIVE
    binary = [file for file in archive.files if not file.endswith(".txt")]
    for file in binary:
        path = tmp_path / archive.folder / file
        data = path.read_bytes()
        for keep in (0, 3, len(data) - 1):
            path.write_bytes(data[:keep])
            with pytest.raises(Problem) as caught:
                opened(name, tmp_path)
            assert caught.value.exit == Exit.DATA
            assert archive.folder in caught.value.message
        path.write_bytes(data)
    assert len(opened(name, tmp_path).splits) == 2


def test_labels_that_name_no_class(tmp_path):
    write_stl10(tmp_path)
    path = tmp_path / "stl10_binary" / "test_y.bin"
    for wrong in (0, 11):
        path.write_bytes(bytes([wrong] * 10))
        with pytest.raises(Problem, match="there are 10 classes"):
            opened("stl10", tmp_path)
    path.write_bytes(bytes([1] * 9))
    with pytest.raises(Problem, match="9 labels for 10 pictures"):
        opened("stl10", tmp_path)


def test_the_pickled_version_is_not_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch bad'\ntR.")
    with pytest.raises(
        Problem, match=r"cifar-10-batches-bin/data_batch_1\.bin and 6 more are missing"
    ):
        opened("cifar10", tmp_path)


def test_the_root_is_a_place_and_not_part_of_a_run(tmp_path):
    def part(root: Path) -> dict:
        changes = ["data.name=cifar10", f"data.root={root}"]
        return weights_part(read(find("byol"), changes, "cifar10"), "f", None)

    assert part(tmp_path / "a") == part(tmp_path / "b")


def test_a_relative_root_counts_from_the_recipe(tmp_path):
    text = find("byol").read_text("utf-8").replace("name: digits", "name: cifar10\n  root: sets")
    (tmp_path / "mine.yaml").write_text(text)
    assert read(tmp_path / "mine.yaml").data.root == str(tmp_path / "sets")


def test_imagenet_is_train_and_val_of_class_folders(tmp_path):
    for split in ("train", "val"):
        for seed, synset in enumerate(("n01440764", "n01443537")):
            photographs(tmp_path / split / synset, 3, seed=seed)
    found = load(imagenet.Config(root=str(tmp_path)), 32, lambda line: None)
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 6, "val": 6}
    assert found.name == "imagenet"
    assert found.classes == ("n01440764", "n01443537")


@pytest.mark.parametrize("lacks", ["train", "val", "classes of val"])
def test_imagenet_that_is_not_there(tmp_path, lacks):
    for split in ("train", "val"):
        if split != lacks:
            photographs(tmp_path / split / ("" if lacks.endswith(f" {split}") else "n01440764"), 2)
    with pytest.raises(Problem) as caught:
        load(imagenet.Config(root=str(tmp_path)), 32, lambda line: None, download=True)
    assert (caught.value.exit, caught.value.code) == (Exit.DATA, "data.not-downloaded")
    assert f"{tmp_path}: {lacks.split()[-1]}/ has no class folders" in caught.value.message
    assert "--download cannot fetch it" in str(caught.value.suggestion)


@pytest.fixture
def web(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a server on this machine gives it."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def copyfile(self, source, outputfile):
            # torchvision asks for the address once before it downloads, and hangs up unread.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().copyfile(source, outputfile)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def publish(name: str, folder: Path, address: str, monkeypatch) -> None:
    """Put a tiny set on the server in the form of the official archive."""
    WRITE[name](folder / "made")
    archive = SOURCES[name].ARCHIVE
    if name == "fashion_mnist":
        sums = []
        for plain in sorted((folder / "made" / archive.folder).iterdir()):
            packed = gzip.compress(plain.read_bytes())
            (folder / f"{plain.name}.gz").write_bytes(packed)
            sums.append((f"{plain.name}.gz", hashlib.md5(packed).hexdigest()))
        monkeypatch.setattr(FashionMNIST, "mirrors", [address])
        monkeypatch.setattr(FashionMNIST, "resources", sums)
        return
    with tarfile.open(folder / "set.tar.gz", "w:gz") as tar:
        tar.add(folder / "made" / archive.folder, archive.folder)
    changed = SOURCES[name].named.Archive(
        archive.name, f"{address}set.tar.gz", archive.size, archive.folder, archive.files
    )
    digest = hashlib.md5((folder / "set.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(SOURCES[name], "ARCHIVE", changed)
    owner, key = (STL10, "tgz_md5") if name == "stl10" else (SOURCES[name], "MD5")
    monkeypatch.setattr(owner, key, digest)


@pytest.mark.parametrize("name", WRITE)
def test_it_is_downloaded_when_told_to_and_only_once(tmp_path, web, monkeypatch, capfd, name):
    folder, address = web
    publish(name, folder, address, monkeypatch)
    root = tmp_path / "root"
    with pytest.raises(Problem):
        opened(name, root)
    first = opened(name, root, download=True)
    assert capfd.readouterr() == ("", "")
    archive = SOURCES[name].ARCHIVE
    found = sorted(path.name for path in (root / archive.folder).iterdir())
    assert found == sorted(archive.files)
    assert [path.name for path in root.iterdir()] == [archive.folder.split("/")[0]]
    for path in folder.glob("*.gz"):
        path.unlink()
    assert opened(name, root, download=True).fingerprint == first.fingerprint
    assert opened(name, folder / "made").fingerprint == first.fingerprint


def test_an_archive_of_another_content_is_refused(tmp_path, web, monkeypatch):
    publish("cifar10", *web, monkeypatch)
    monkeypatch.setattr(cifar10, "MD5", "0" * 32)
    with pytest.raises(Problem) as caught:
        opened("cifar10", tmp_path / "root", download=True)
    assert (caught.value.exit, caught.value.code) == (Exit.DATA, "data.download-failed")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_web_that_is_not_there(tmp_path, web, monkeypatch):
    publish("cifar10", *web, monkeypatch)
    (web[0] / "set.tar.gz").unlink()
    with pytest.raises(Problem) as caught:
        opened("cifar10", tmp_path / "root", download=True)
    assert caught.value.code == "data.download-failed"
    assert "404" in caught.value.message
    assert "elsewhere" in str(caught.value.suggestion)


def test_the_commands_name_the_folder_and_the_flag(clctl, tmp_path, monkeypatch):
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    answer = clctl("pretrain", "byol", "--data", "cifar10", "--dry-run", "--json")
    assert answer.code == 4
    assert answer.document["code"] == "data.not-downloaded"
    assert str(tmp_path / "cache" / "datasets") in answer.document["message"]
    assert "--download" in answer.document["suggestion"]
    assert "--data ./cifar10" in answer.document["suggestion"]


def test_a_run_on_stl10_learns_from_the_pool_and_ends_with_a_score(clctl, tmp_path):
    write_stl10(tmp_path)
    changes = ("data.name=stl10", f"data.root={tmp_path}", "train.batch_size=16", "train.epochs=1")
    sets = [word for change in changes for word in ("--set", change)]
    answer = clctl("pretrain", "simclr", *sets, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["steps"] == 3  # of 16 of the 50 pictures
    assert 0 <= answer.document["metrics"]["top1"] <= 1
    assert "20 train, 10 test" in answer.err
