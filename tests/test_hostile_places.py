"""What commands write: with the mode that the umask asks for, and nowhere but where they should."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import photographs

SCRIPT = """
import json, os, sys
os.umask(int(sys.argv[1], 8))
wrote = set()
def hook(event, given):
    if event == "open" and isinstance(given[0], (str, bytes)) and isinstance(given[2], int):
        if given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            wrote.add(os.path.abspath(os.fsdecode(given[0])))
    if event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.chmod"):
        name = given[1] if event in ("os.rename", "os.link", "os.symlink") else given[0]
        if isinstance(name, (str, bytes)):
            wrote.add(os.path.abspath(os.fsdecode(name)))
sys.addaudithook(hook)
from clctl.__main__ import main
for line in json.loads(sys.argv[2]):
    try:
        main(line + ["-q"])
    except SystemExit as end:
        assert end.code == 0, line
json.dump(sorted(wrote), open(sys.argv[3], "w"))
"""
FEW = ["--set", "train.epochs=1", "--set", "train.precision=fp32", "--set", "train.batch_size=16",
       "--set", "views.size=16", "--set", "encoder={name: resnet_small, width: 8}"]  # fmt: skip
COMMANDS = [
    ["pretrain", "simclr", "--data", "pictures", "--out", "out/run", *FEW],
    ["knn-eval", "out/run"],
    ["embed", "out/run", "-o", "out/f.npz"],
    ["export", "out/run", "--to", "safetensors", "-o", "out/ex"],
]
MORE = [
    ["linear-probe", "out/run"],
    ["diagnose", "out/run"],
    ["embed", "out/run", "-o", "out/f.safetensors"],
    ["neighbors", "out/run", "-o", "out/g.html"],
    ["neighbors", "out/run", "-o", "out/g.png"],
    ["views", "simclr", "--data", "pictures", "-o", "out/v.png"],
    ["data", "scan", "pictures", "-o", "out/s.png"],
    ["init", "pictures", "-o", "out/r.yaml"],
]


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    ("mask", "commands"),
    [
        pytest.param(0o002, COMMANDS, id="002"),
        pytest.param(0o077, COMMANDS + MORE, id="077", marks=pytest.mark.soak),
        pytest.param(0o002, COMMANDS + MORE, id="002 all", marks=pytest.mark.soak),
    ],
)
def test_modes_and_places(tmp_path, mask, commands):
    places = {name: tmp_path / name for name in ("home", "tmp", "cwd", "cache")}
    for place in places.values():
        place.mkdir()
    photographs(places["cwd"] / "pictures" / "a", 12)
    photographs(places["cwd"] / "pictures" / "b", 12, seed=1)
    (places["cwd"] / "out").mkdir()
    before = below(tmp_path)
    drop = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR",
            "ORT_DISABLE_TELEMETRY", "TORCH_HOME")  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in drop}
    environment |= {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]),
                    "CLCTL_CACHE": str(places["cache"]), "OMP_NUM_THREADS": "1",
                    "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, oct(mask), json.dumps(commands), str(tmp_path / "wrote.json")],
        cwd=places["cwd"], env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    new = below(tmp_path) - before - {tmp_path / "wrote.json"}
    inside = [places["cwd"] / "out", places["cache"]]
    assert not [path for path in new if not any(path.is_relative_to(place) for place in inside)]
    for path in json.loads((tmp_path / "wrote.json").read_text()):
        assert path.startswith(("/dev/", "/proc/")) or any(
            Path(path).is_relative_to(place) for place in (*inside, tmp_path / "wrote.json")
        ), path
    ours = [path for path in new if not path.is_relative_to(places["cache"] / "matplotlib")]
    wrong = {}
    for path in ours:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask:
            wrong[str(path.relative_to(tmp_path))] = oct(mode)
    assert wrong == {}
    kinds = {path.suffix for path in ours}
    assert {".safetensors", ".json", ".npz", ".png", ".md", ".yaml", ".u8"} <= kinds


def test_onnxruntime_reports_to_nobody(tmp_path):
    pytest.importorskip("onnxruntime")
    script = "import clctl.export.onnx, onnxruntime; onnxruntime.SessionOptions()"
    drop = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in drop}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
    assert below(tmp_path) == set()


def test_a_cache_that_cannot_be_written_stops_no_command(clctl, tmp_path, monkeypatch):
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "none" / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert clctl("list", "methods").code == 0
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.undo()
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "none" / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    assert clctl("list", "methods").code == 0
    assert os.environ["MPLCONFIGDIR"] == "mine"
    assert not (tmp_path / "none").exists()
