"""Arrays, features, checkpoints and recipes made to burst or to fool their reader."""

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clctl.console import Exit, Problem
from clctl.data import arrayfile, embeddings
from clctl.recipe.nodes import load
from clctl.store import tensors

READERS: dict[str, Callable[[Path], Any]] = {"images": arrayfile.read, "features": embeddings.read}


def npy(shape: object, kind: str = "|u1", data: bytes = b"", version: int = 1) -> bytes:
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + data


def npz(path: Path, *members: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """The message of the Problem; the file must cost neither memory nor time."""
    begin = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.exit == Exit.DATA
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert peak < 64 << 20
    assert time.process_time() - begin < 2
    return caught.value.message


SHAPES = {
    "huge": (1 << 60, 4, 4),
    "beyond 64 bits": (1 << 70, 0, 1),
    "at 63 bits": (1 << 63, 0, 4),
    "huge together": (1 << 31, 1 << 31, 1 << 31, 3),
    "huge and empty": (0, 1 << 62, 4),
    "negative": (-4, -4, 1),
    "true": (True, 4, 4),
    "a fraction": (4.0, 4),
    "nested": ((4,), 4),
    "words": "(2**60,)",
    "65 deep": (1,) * 65,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", READERS)
def test_shapes_that_cannot_be(tmp_path, shape, key):
    content = npy(SHAPES[shape], "|u1" if key == "images" else "<f4", bytes(16))
    assert refusal(READERS[key], npz(tmp_path / "a.npz", (f"{key}.npy", content)))
    (tmp_path / "a.npy").write_bytes(content)
    assert refusal(embeddings.read, tmp_path / "a.npy")


HEADERS = {
    "objects": (npy((2, 2), "|O", b"\x80\x04K\x01."), "Python objects"),
    "objects in records": (npy((2,), "[('a', '|O')]".strip('"'), b"\x80\x04."), ""),
    "nested brackets": (b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000, ""),
    "many signs": (b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"-" * 9000, "header"),
    "long": (b"\x93NUMPY\1\0" + struct.pack("<H", 65535) + b" " * 65535, "header"),
    "longer than the file": (b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b"{", "EOF"),
    "version 9": (b"\x93NUMPY\x09\0" + bytes(99), "unknown version"),
    "a pickle": (b"\x80\x04\x95\x03\0\0\0\0\0\0\0K\x01.", "magic"),
    "cut": (npy((4, 4), "<f4", bytes(63)), "another length"),
    "more behind it": (npy((4, 4), "<f4", bytes(65)), "another length"),
    "wide elements": (npy((4,), "(3000000000,)f8"), ""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(tmp_path, name):
    content, words = HEADERS[name]
    for key, read in READERS.items():
        assert words in refusal(read, npz(tmp_path / "a.npz", (f"{key}.npy", content)))
    (tmp_path / "a.npy").write_bytes(content)
    assert words in refusal(embeddings.read, tmp_path / "a.npy")


def test_an_archive_under_the_name_of_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.zeros((3, 2), np.float32))
    os.rename(tmp_path / "a.npz", tmp_path / "a.npy")
    assert "magic" in refusal(embeddings.read, tmp_path / "a.npy")


@pytest.mark.parametrize("key", READERS)
def test_a_bomb_is_not_unpacked(tmp_path, key, monkeypatch):
    monkeypatch.setattr(arrayfile, "LARGE", 1 << 24)
    count = 2 * arrayfile.LARGE
    kind = ((count // 16, 4, 4), "|u1") if key == "images" else ((count // 16, 4), "<f4")
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{key}.npy", "w") as out,
    ):
        out.write(npy(*kind))
        for _ in range(count >> 20):
            out.write(bytes(1 << 20))
    assert os.path.getsize(tmp_path / "a.npz") < 1 << 16
    message = refusal(READERS[key], tmp_path / "a.npz")
    assert f"{key}.npy would unpack from" in message


def test_masks_that_are_mostly_black_are_no_bomb(tmp_path):
    masks = np.zeros((64, 64, 64), np.uint8)
    masks[:, 20:30, 20:40] = 255
    np.savez_compressed(tmp_path / "a.npz", images=masks)
    assert os.path.getsize(tmp_path / "a.npz") * 100 < masks.nbytes
    assert (arrayfile.read(tmp_path / "a.npz").images[..., 0].numpy() == masks).all()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["{}.npy", "{}"])
@pytest.mark.parametrize("key", READERS)
def test_a_member_listed_twice(tmp_path, key, second):
    content = npy((2, 4, 4), "|u1", bytes(32)) if key == "images" else npy((2, 2), "<f4", bytes(16))
    path = npz(tmp_path / "a.npz", (f"{key}.npy", content), (second.format(key), content))
    assert f"'{key}' is there twice" in refusal(READERS[key], path)


def test_members_with_paths_are_neither_taken_nor_written(tmp_path):
    content = npy((2, 4, 4), "|u1", bytes(32))
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    names = ("../images.npy", "../../x.npy", "/tmp/clctl-hostile.npy", "a\\..\\images.npy")
    path = npz(inner / "a.npz", *((name, content) for name in names))
    assert "no array called images" in refusal(arrayfile.read, path)
    assert "no array called features" in refusal(embeddings.read, path)
    whole = npz(inner / "b.npz", *((name, content) for name in (*names, "images.npy")))
    assert arrayfile.read(whole).images.shape == (2, 4, 4, 1)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "a.npz", "b", "b.npz"]
    assert not Path("/tmp/clctl-hostile.npy").exists()


def test_arrays_that_nobody_asked_for_stay_unread(tmp_path):
    good = npy((2, 3), "<f4", bytes(24))
    bad = ("other.npy", npy((9,), "|O", b"\x80\x04."))
    assert embeddings.read(npz(tmp_path / "a.npz", ("features.npy", good), bad)).features.shape == (
        2,
        3,
    )


def test_a_locked_or_strangely_packed_member(tmp_path):
    plain = npz(tmp_path / "a.npz", ("images.npy", npy((2, 4, 4), "|u1", bytes(32)))).read_bytes()
    central = plain.find(b"PK\1\2")
    for offset, value, words in ((6, 1, "password"), (8, 99, "compression")):
        raw = bytearray(plain)
        raw[offset], raw[central + offset + 2] = value, value
        (tmp_path / "b.npz").write_bytes(raw)
        assert words in refusal(arrayfile.read, tmp_path / "b.npz")
    for offset, value in ((42, 0xFFFFFFF0), (24, 0xFFFFFF00)):
        raw = bytearray(plain)
        struct.pack_into("<I", raw, central + offset, value)
        (tmp_path / "b.npz").write_bytes(raw)
        assert refusal(arrayfile.read, tmp_path / "b.npz")


def entry(key: str, kind: str, shape: list[int], end: int) -> str:
    return f'"{key}":{{"dtype":"{kind}","shape":{json.dumps(shape)},"data_offsets":[0,{end}]}}'


def packed(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + data


BODY = entry("images", "U8", [2, 2, 2], 8)
SAFE = {
    "a key twice": (packed(f"{{{BODY},{BODY}}}", bytes(8)), "there twice"),
    "huge": (packed(f"{{{entry('images', 'U8', [1 << 62, 4, 4], 8)}}}", bytes(8)), "shape"),
    "huge and empty": (packed(f"{{{entry('images', 'U8', [0, 2**62, 4], 0)}}}"), "shape"),
    "a header without end": (struct.pack("<Q", 1 << 62) + b"{", "not a safetensors"),
    "a long header": (packed("{" + " " * (17 << 20) + "}"), "not a safetensors"),
    "bytes behind the end": (packed(f"{{{BODY}}}", bytes(9)), "9"),
    "empty": (b"", "empty"),
    "nested classes": (packed(f'{{"__metadata__":{{"classes":"{"[" * 90000}"}},{BODY}}}', bytes(8)), "recursion"),
    "half a character": (
        packed(f'{{"__metadata__":{{"classes":"[\\"\\\\ud800\\"]"}},{BODY}}}', bytes(8)), "text"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFE)
def test_safetensors_of_pictures(tmp_path, name):
    content, words = SAFE[name]
    (tmp_path / "a.safetensors").write_bytes(content)
    assert words in refusal(arrayfile.read, tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [[0, 2**62, 4], [0] + [2**32] * 3, [2**63, 0]])
def test_a_checkpoint_with_a_tensor_that_torch_cannot_shape(tmp_path, shape):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(f"{{{entry('w', 'F32', shape, 0)}}}"))
    with pytest.raises(Problem) as caught:
        tensors.read(path)
    assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "checkpoint.damaged")


def test_a_checkpoint_with_empty_tensors_is_read(tmp_path):
    given = {"a": torch.zeros(0, 2**40), "b": torch.zeros(5, 0)}
    save_file(given, tmp_path / "a.safetensors")
    found, _ = tensors.read(tmp_path / "a.safetensors")
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in given.items()}


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_pipes_in_place_of_arrays_do_not_hang(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(Problem) as caught:
        embeddings.read(tmp_path / f"a{suffix}")
    assert caught.value.exit == Exit.DATA


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = {
    "laughs": (LAUGHS.encode(), "recipe.alias", 1, 4),
    "merge": (b"a: &a {b: 1}\nc:\n  <<: *a\n", "recipe.alias", 1, 4),
    "python": (b"a: 1\nb: !!python/name:os.system x\n", "recipe.tag", 2, 4),
    "binary tag": (b"a: !!binary aGk=\n", "recipe.tag", 1, 4),
    "long number": (b"a: 1\nb: " + b"7" * 100_000, "recipe.number", 2, 4),
    "twice": (b"a: 1\nb: {c: 1, c: 2}\n", "recipe.duplicate-key", 2, 11),
    "deep": (b"a:\n  b: " + b"{c: " * 5000 + b"}" * 5000, "recipe.too-deep", 2, 123),
    "dashes": (b"- " * 5000, "recipe.too-deep", 1, 65),
    "nul": (b"a: 1\nb: x\0y\n", "recipe.yaml", 2, 5),
    "utf-16 le": ("a: 1\nb: 2\n".encode("utf-16-le"), "recipe.yaml", 1, 2),
    "utf-16 with a mark": ("a: 1\n".encode("utf-16"), "recipe.not-utf8", 1, 1),
    "utf-32": ("a: 1\n".encode("utf-32"), "recipe.not-utf8", 1, 1),
    "elf": (b"\x7fELF\2\1\1\0\0\0\0\0", "recipe.yaml", 1, 1),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "recipe.not-utf8", 1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_at_file_line_and_column(tmp_path, name, clctl, monkeypatch):
    content, code, line, column = RECIPES[name]
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_bytes(content)
    answer = clctl("validate", "r.yaml", "--json")
    assert answer.code == 3
    told = [answer.document, *answer.document.get("others", [])]
    places = [(one["file"], one["line"], one["column"]) for one in told if one["code"] == code]
    assert ("r.yaml", line, column) in places
    assert f"r.yaml:{line}:{column}" in answer.err


def test_a_recipe_of_a_hundred_megabytes_or_without_end_is_not_read(tmp_path):
    large = tmp_path / "r.yaml"
    with open(large, "wb") as file:
        file.truncate(100 << 20)
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for path in (large, tmp_path / "zero.yaml"):
        tracemalloc.start()
        with pytest.raises(Problem) as caught:
            load(path, "r.yaml")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (caught.value.exit, caught.value.code) == (Exit.RECIPE, "recipe.too-large")
        assert peak < 8 << 20
