"""The safetensors writer and header reader against the official library."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from clctl.console import Exit, Problem
from clctl.store import tensors


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bits that the dtype has, the same at every call."""
    if dtype == torch.bool:
        return torch.arange(int(torch.tensor(shape).prod())).reshape(shape) % 3 == 0
    width = torch.empty(0, dtype=dtype).element_size()
    count = int(torch.tensor(shape).prod()) * width
    raw = torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(1))
    return raw.to(torch.uint8).view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


def everything() -> dict[str, torch.Tensor]:
    found = {f"{n}.weight": some(getattr(torch, t), 3, 5) for n, (t, _) in tensors.DTYPES.items()}
    return found | {
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "turned": some(torch.float32, 4, 6).t(),
        "strided": some(torch.int16, 8, 8)[::2, 1::3],
        "ünïcode \n name": torch.ones(1),
        "gradient": torch.ones(2, requires_grad=True),
    }


def test_official_reader_gives_back_every_dtype_and_layout(tmp_path):
    path, given = tmp_path / "a.safetensors", everything()
    digest = tensors.write(path, given, {"clctl": '{"ä": 1}', "b": ""})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_file(path)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v.detach()) for k, v in given.items()}
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "clctl": '{"ä": 1}', "b": ""}


def test_reads_what_the_official_writer_wrote(tmp_path):
    path = tmp_path / "a.safetensors"
    given = {name: tensor.detach().contiguous() for name, tensor in everything().items()}
    save_file(given, path, {"format": "pt", "x": "y"})
    found, metadata = tensors.read(path)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in given.items()}
    assert metadata == {"format": "pt", "x": "y"}
    entry = tensors.header(path).tensors["BF16.weight"]
    assert entry == ("BF16", (3, 5), 30)


def test_no_tensors_and_no_metadata(tmp_path):
    tensors.write(tmp_path / "a.safetensors", {}, {})
    assert load_file(tmp_path / "a.safetensors") == {}
    assert tensors.read(tmp_path / "a.safetensors") == ({}, {"format": "pt"})


@pytest.mark.parametrize("length", range(8))
def test_every_tensor_is_aligned_to_its_elements(tmp_path, length):
    path = tmp_path / "a.safetensors"
    tensors.write(path, everything(), {"x": "x" * length})
    raw = path.read_bytes()
    count = int.from_bytes(raw[:8], "little")
    assert count % 8 == 0
    for name, entry in json.loads(raw[8 : 8 + count]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % tensors.DTYPES[entry["dtype"]][1] == 0, name


def test_bytes_depend_on_nothing_but_the_arguments(tmp_path):
    script = """
import sys, torch
from pathlib import Path
from clctl.store import tensors
names = sys.argv[2].split(",")
print(tensors.write(Path(sys.argv[1]), {n: torch.full((5,), float(len(n))) for n in names},
                    {n: n for n in names}))
"""
    names = ["a", "bb", "ccc", "dddd", "eeeee"]
    given = {name: torch.full((5,), float(len(name))) for name in names}
    here = tensors.write(tmp_path / "a.safetensors", given, {name: name for name in names})
    there = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "b.safetensors"), ",".join(names[::-1])],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_name_that_is_no_text_stays_readable_in_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write(path, {}, {"clctl": '{"data": "caf\udce9"}'})
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["clctl"]) == {"data": "caf\udce9"}


@pytest.mark.parametrize("name", ["__metadata__", "c128"])
def test_writer_refuses_what_the_format_lacks(tmp_path, name):
    dtype = torch.complex128 if name == "c128" else torch.float32
    with pytest.raises(TypeError, match=name):
        tensors.write(tmp_path / "a.safetensors", {name: torch.zeros(2, dtype=dtype)}, {})
    assert list(tmp_path.iterdir()) == []


def file_of(header: str | bytes, data: bytes = b"") -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype='"U8"', shape="[4]", offsets="[0,4]", name="a") -> str:
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


BAD = {
    "empty": (b"", "it is empty"),
    "a key twice": (file_of(f"{{{entry()},{entry()}}}", b"1234"), "'a' is there twice"),
    "dtype twice": (
        file_of('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
        "'dtype' is there twice",
    ),
    "dtype": (file_of(f"{{{entry(dtype=chr(34) + 'F128' + chr(34))}}}", b"1234"), "F128"),
    "dtype no text": (file_of(f"{{{entry(dtype='[]')}}}", b"1234"), "unknown dtype"),
    "hole": (
        file_of(f"{{{entry()},{entry(offsets='[5,9]', name='b')}}}", b"123456789"),
        "a hole before 'b'",
    ),
    "overlap": (
        file_of(f"{{{entry()},{entry(offsets='[2,6]', name='b')}}}", b"123456"),
        "an overlap before 'b'",
    ),
    "trailing": (file_of(f"{{{entry()}}}", b"12345"), "take 4 bytes, the file has 5"),
    "cut": (file_of(f"{{{entry()}}}", b"123"), "1 bytes behind the end"),
    "shape": (file_of(f"{{{entry(shape='[5]')}}}", b"1234"), r"\[5\] has 4 bytes"),
    "negative": (file_of(f"{{{entry(shape='[-4]')}}}", b"1234"), "no valid shape"),
    "true": (file_of(f"{{{entry(shape='[4,true]')}}}", b"1234"), "no valid shape"),
    "float": (file_of(f"{{{entry(shape='[4.0]')}}}", b"1234"), "no valid shape"),
    "overflow": (file_of(f"{{{entry(shape=f'[{2**64},0]')}}}", b"1234"), "no valid shape"),
    "backwards": (file_of(f"{{{entry(offsets='[4,0]')}}}", b"1234"), "no valid place"),
    "extra": (file_of('{"a":{"dtype":"U8","shape":[0]}}'), "entry of 'a'"),
    "no entry": (file_of('{"a":3}'), "entry of 'a'"),
    "metadata": (file_of('{"__metadata__":{"a":1}}'), "metadata is not text"),
    "surrogate": (file_of('{"__metadata__":{"a":"\\ud800"}}'), "surrogates"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "utf-8"),
    "NaN": (file_of('{"a":NaN}'), "NaN"),
    "deep": (file_of('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested"),
    "header cut": (file_of("{" + " " * 99)[:50], "ends in its header"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_header_is_told_with_file_and_reason(tmp_path, name):
    raw, reason = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(Problem, match=reason) as caught:
        tensors.read(path)
    assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "checkpoint.damaged")
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    "raw",
    [b"PK\x03\x04" + b"\0" * 90, b"not a checkpoint", b"12", file_of("{" + " " * (16 << 20))],
    ids=["zip", "text", "short", "huge header"],
)
def test_another_kind_of_file_is_told_as_such(tmp_path, raw):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(raw)
    with pytest.raises(Problem) as caught:
        tensors.header(path)
    code = caught.value.code
    assert (caught.value.exit, code) == (Exit.CHECKPOINT, "checkpoint.not-safetensors")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_folder_does_not_hang(tmp_path, make):
    make(tmp_path / "a.safetensors")
    with pytest.raises(Problem, match="not a regular file"):
        tensors.header(tmp_path / "a.safetensors")


VALID = file_of(
    f'{{"__metadata__":{{"k":"v"}},{entry()},{entry(name="b", dtype=chr(34) + "F32" + chr(34), shape="[2,1]", offsets="[4,12]")}}}',
    bytes(range(12)),
)
headers = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=40).map(file_of),
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=3).map(
        lambda edits: bytes(dict(edits).get(i, old) for i, old in enumerate(VALID))
    ),
    st.builds(
        lambda shape, offsets, more: file_of(
            f"{{{entry(shape=str(shape), offsets=str(offsets))}{more}}}", b"12345678"
        ),
        st.lists(st.integers(-1, 9), max_size=3),
        st.lists(st.integers(-1, 9), max_size=3),
        st.sampled_from(["", ",", "," + entry(offsets="[4,8]", name="b")]),
    ),
)


def outcome(path: Path) -> tensors.Header | Problem:
    try:
        return tensors.header(path)
    except Problem as problem:
        return problem


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=headers)
@example(VALID)
def test_any_bytes_are_a_header_that_the_official_reader_takes_or_a_problem(tmp_path, raw):
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(raw)
    found = outcome(path)
    if isinstance(found, Problem):
        assert found.exit == Exit.CHECKPOINT
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(found.tensors)
            for name, known in found.tensors.items():
                assert tuple(file.get_slice(name).get_shape()) == known.shape
    except SafetensorError as error:
        pytest.fail(f"taken here, refused there: {error}")
