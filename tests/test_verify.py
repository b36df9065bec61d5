import json
import shutil
from pathlib import Path

import pytest
import torch

from clctl.store import reference, tensors


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A finished run to spoil."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def rewritten(run: Path, out: Path, change) -> Path:
    """The model of a run as a file of its own, its tensors changed."""
    found = reference.find(str(run))
    held, metadata = tensors.read(found.model)
    tensors.write(out, change(held), metadata)
    return out


def test_a_run_is_whole(run, clctl):
    report = clctl("verify", run, "--json")
    assert report.code == 0
    document = report.document
    assert (document["schema"], document["verdict"]) == ("clctl/verify/1", "whole")
    assert len(document["checked"]) == len(list((run / "checkpoints").glob("step-*")))
    first = document["checked"][0]
    assert Path(first["path"]) == newest(run)
    assert set(first["files"]) == {"model.safetensors", "state.safetensors"}
    assert first["tensors"] > 10
    assert first["not_finite"] == []
    assert first["mismatch"] is None


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
def test_one_bit_is_damage(run, clctl, name):
    path = newest(run) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for place in (run, newest(run)):
        report = clctl("verify", place, "--json")
        assert report.code == 5
        assert report.document["verdict"] == "damaged"
        assert name in report.document["checked"][0]["damaged"][0]
        assert "DAMAGED" in clctl("verify", place).out


def test_a_checkpoint_without_its_manifest_is_damaged(run, clctl):
    (newest(run) / "manifest.json").unlink()
    assert clctl("verify", run).code == 5


def test_tensors_that_are_not_finite_are_named(run, clctl, tmp_path):
    def spoil(held):
        held["encoder.conv1.weight"][0, 0, 0, 0] = torch.nan
        held["encoder.bn1.running_var"][1] = torch.inf
        return held

    path = rewritten(run, tmp_path / "bad.safetensors", spoil)
    report = clctl("verify", path, "--json")
    assert report.code == 1
    (one,) = report.document["checked"]
    assert set(one["not_finite"]) == {"encoder.conv1.weight", "encoder.bn1.running_var"}
    text = clctl("verify", path)
    assert "NOT FINITE" in text.out
    assert "encoder.conv1.weight" in text.out


@pytest.mark.parametrize(
    "change",
    [
        lambda held: {k: v for k, v in held.items() if k != "encoder.conv1.weight"},
        lambda held: {**held, "encoder.more": torch.zeros(2)},
        lambda held: {**held, "encoder.conv1.weight": torch.zeros(3, 3)},
    ],
)
def test_names_and_shapes_are_those_of_the_recipe(run, clctl, tmp_path, change):
    path = rewritten(run, tmp_path / "other.safetensors", change)
    report = clctl("verify", path, "--json")
    assert report.code == 1
    assert "match" in report.document["checked"][0]["mismatch"]


def test_a_file_of_clctl_is_whole_and_another_is_not(run, clctl, tmp_path):
    whole = rewritten(run, tmp_path / "whole.safetensors", lambda held: held)
    assert clctl("verify", whole, "-q").out.strip() == "whole"
    tensors.write(tmp_path / "foreign.safetensors", {"a": torch.zeros(1)}, {})
    for path in (tmp_path / "foreign.safetensors", tmp_path / "nothing", tmp_path):
        assert clctl("verify", path).code == 5


def test_an_export_folder_is_checked_by_its_sums(run, clctl, tmp_path):
    made = clctl("export", run, "--to", "safetensors", "-o", tmp_path, "--json").document
    folder = Path(made["folder"])
    report = clctl("verify", folder, "--json")
    assert report.code == 0
    (one,) = report.document["checked"]
    assert len(one["files"]) == 4
    assert one["tensors"] > 10
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    changed = clctl("verify", folder, "--json")
    assert changed.code == 5
    assert changed.document["checked"][0]["files"]["config.json"] is False
    (folder / "README.md").unlink()
    assert "README.md" in clctl("verify", folder).out


@pytest.mark.parametrize("line", ["", "abc  README.md", f"{'0' * 64}  ../README.md"])
def test_sums_that_are_no_sums_are_damage(clctl, tmp_path, line):
    (tmp_path / "SHA256SUMS").write_text(f"{line}\n")
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert clctl("verify", tmp_path).code == 5
