"""Files, checkpoints, references and runs as they are when nothing fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clctl.console import Exit, Problem
from clctl.store import checkpoint, disk, files, reading, reference, tensors


def save(run: Path, step: int, **about) -> Path:
    model = {"encoder.w": torch.full((3, 2), float(step)), "encoder.n": torch.tensor(step)}
    state = {"0.momentum": torch.full((3, 2), -float(step)), "0.step": torch.tensor(step)}
    metadata = {"clctl": json.dumps({"encoder": {"name": "tiny"}})}
    return checkpoint.save(run, step, model, state, metadata, {"epoch": step / 10, **about})


def silent(text: str) -> None:
    pytest.fail(f"nothing should be said: {text}")


def test_checkpoint_round_trip_and_manifest(tmp_path):
    save(tmp_path, 100)
    folder = save(tmp_path, 132, recipe_sha256="0" * 64, files="mine")
    assert folder == tmp_path / "checkpoints" / "step-00000132"
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "state.safetensors",
        "manifest.json",
    }
    model, state, metadata, manifest = checkpoint.load(folder)
    assert model["encoder.w"].tolist() == [[132.0] * 2] * 3
    assert model["encoder.n"].item() == 132
    assert state["0.momentum"].tolist() == [[-132.0] * 2] * 3
    assert metadata["clctl"] == '{"encoder": {"name": "tiny"}}'
    assert manifest["schema"] == "clctl/checkpoint/1"
    assert (manifest["step"], manifest["parent"], manifest["epoch"]) == (132, "step-00000100", 13.2)
    assert manifest["recipe_sha256"] == "0" * 64
    assert manifest["tensors"] == {"count": 2, "params": 7}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == reading.digest(folder / name)
        assert entry["bytes"] == (folder / name).stat().st_size
    assert checkpoint.verify(tmp_path / "checkpoints" / "step-00000100")["parent"] is None


def test_a_copy_under_another_step_is_refused_and_under_a_plain_name_is_not(tmp_path):
    folder = save(tmp_path, 1)
    folder.rename(folder.with_name("best"))
    assert checkpoint.verify(folder.with_name("best"))["step"] == 1
    folder.with_name("best").rename(folder.with_name("step-00000002"))
    with pytest.raises(Problem, match="is of step 1"):
        checkpoint.verify(folder.with_name("step-00000002"))


def test_saving_a_step_again_replaces_whole_and_incomplete_ones(tmp_path):
    save(tmp_path, 1, note="old")
    folder = save(tmp_path, 1, note="new")
    assert checkpoint.verify(folder)["note"] == "new"
    (folder / "manifest.json").unlink()
    (folder / "stray").mkdir()
    save(tmp_path, 1, note="third")
    assert checkpoint.verify(folder)["note"] == "third"
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
    assert len(os.listdir(folder)) == 3


def test_newest_passes_over_damage_loudly(tmp_path):
    assert checkpoint.newest(tmp_path, silent) is None
    for step in (1, 2, 3):
        save(tmp_path, step)
    home = tmp_path / "checkpoints"
    assert checkpoint.newest(tmp_path, silent) == home / "step-00000003"
    (home / "step-00000003" / "state.safetensors").unlink()
    (home / "step-00000002" / "manifest.json").unlink()
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == home / "step-00000001"
    assert len(said) == 2
    assert "step-00000003/state.safetensors does not exist" in said[0]
    assert "step-00000002/manifest.json does not exist" in said[1]


def test_prune_keeps_the_newest_whole_ones(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    home = tmp_path / "checkpoints"
    path = home / "step-00000005" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (home / "step-00000004" / "manifest.json").unlink()
    (home / ".step-00000009.12ab.tmp").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(os.listdir(home)) == ["step-00000003", "step-00000005", "step-00000006"]
    path = home / "step-00000006" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    checkpoint.prune(tmp_path, 1)
    assert "step-00000003" in os.listdir(home)
    with pytest.raises(ValueError, match="at least"):
        checkpoint.prune(tmp_path, 0)


def test_prune_keeps_every_so_many_steps(tmp_path):
    home = tmp_path / "checkpoints"
    for step in range(1, 12):
        save(tmp_path, step)
        checkpoint.prune(tmp_path, 2, every=4)
    kept = ["step-00000004", "step-00000008", "step-00000010", "step-00000011"]
    assert sorted(os.listdir(home)) == kept
    for folder in home.iterdir():
        checkpoint.verify(folder)
    (home / "step-00000010" / "model.safetensors").unlink()
    checkpoint.prune(tmp_path, 2, every=4)
    assert sorted(os.listdir(home)) == kept  # 11 and 8 are the two whole ones, 4 a multiple
    shutil.copytree(home / "step-00000004", home / ".step-00000004.12ab.old")
    checkpoint.prune(tmp_path, 1, every=4)
    assert sorted(os.listdir(home)) == [kept[0], kept[1], kept[3]]


def test_find_takes_a_run_a_checkpoint_or_a_file(tmp_path, monkeypatch):
    run = tmp_path / "run"
    save(run, 1)
    folder = save(run, 2)
    model = folder / "model.safetensors"
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(model.read_bytes())
    about, sha = {"encoder": {"name": "tiny"}}, reading.digest(model)
    for name in (run, folder, model):
        assert reference.find(str(name)) == reference.Found(model, about, run, folder, sha)
    assert reference.find(str(alone)) == reference.Found(alone, about, None, None, sha)
    monkeypatch.chdir(folder)
    assert reference.find(".").run == run


def test_find_falls_back_in_a_run_but_never_from_what_was_named(tmp_path, capsys):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-1] + b"!")
    (tmp_path / "best.safetensors").symlink_to(folder / "model.safetensors")
    for name in (folder, folder / "model.safetensors", tmp_path / "best.safetensors"):
        with pytest.raises(Problem, match=r"model\.safetensors is damaged") as caught:
            reference.find(str(name))
        assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "checkpoint.damaged")
    found = reference.find(str(tmp_path))
    assert found.checkpoint == tmp_path / "checkpoints" / "step-00000001"
    assert "passing over step-00000002" in capsys.readouterr().err


def test_find_says_what_is_wrong_and_what_to_do(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    cases = {
        "runn": ("checkpoint.not-found", str(tmp_path / "run")),
        "elsewhere": ("checkpoint.not-found", "clctl pretrain"),
        "void/a\0b": ("checkpoint.not-found", "clctl pretrain"),
        "none": ("checkpoint.none", "clctl pretrain byol"),
        "run": ("checkpoint.none", f"clctl pretrain {tmp_path / 'run'}"),
        "foreign.safetensors": ("checkpoint.foreign", "clctl export"),
    }
    for name, (code, advice) in cases.items():
        with pytest.raises(Problem) as caught:
            reference.find(str(tmp_path / name))
        assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, code)
        assert advice in (caught.value.suggestion or "")


def test_match_strips_the_prefixes_of_wrappers_and_keeps_names_that_are_meant():
    given = {"module._orig_mod.a": torch.zeros(2), "module.b": torch.ones(1, 3)}
    found = reference.match(given, {"a": (2,), "module.b": (1, 3)}, "tiny")
    assert found.keys() == {"a", "module.b"}
    assert found["a"] is given["module._orig_mod.a"]


@pytest.mark.parametrize("given", [{}, {"a": 2, "b": 1}, {"a": 3}])
def test_match_takes_nothing_but_exactly_what_is_expected(given):
    with pytest.raises(Problem, match="of 1 tensors of tiny match"):
        reference.match(
            {name: torch.zeros(size) for name, size in given.items()}, {"a": (2,)}, "tiny"
        )


def test_match_counts_and_names_what_does_not_fit():
    given = {
        "a": torch.zeros(2),
        "module.a": torch.zeros(2),
        "b": torch.zeros(3),
        "x": torch.ones(1),
    }
    expected = {"a": (2,), "b": (4,), **{f"m{i}": (1,) for i in range(9)}}
    with pytest.raises(Problem) as caught:
        reference.match(given, expected, "tiny")
    assert caught.value.message == (
        "1 of 11 tensors of tiny match; missing: m0, m1, m2 and 6 more; unknown: x; "
        "of another shape: b (3,), not (4,); twice: a"
    )
    assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "checkpoint.mismatch")
    assert "another encoder" in (caught.value.suggestion or "")


def test_everything_but_tensors_works_without_torch(tmp_path):
    save(tmp_path, 1)
    script = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from clctl.store import checkpoint, reference, tensors
from clctl.store.run import Run
found = reference.find(sys.argv[1])
Run(Path(sys.argv[1])).log({"step": found.about["encoder"]["name"] and 1})
checkpoint.prune(Path(sys.argv[1]), 1)
print(tensors.header(found.model).tensors["encoder.w"].shape)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(3, 2)\n", "")
    assert tensors.header(tmp_path / "checkpoints/step-00000001/state.safetensors").metadata == {
        "format": "pt"
    }


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
def test_a_flipped_bit_or_a_cut_at_each_64th_is_noticed(tmp_path, name):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    raw = (folder / name).read_bytes()
    for part in range(64):
        at = len(raw) * part // 64
        flipped = raw[:at] + bytes([raw[at] ^ 1 << part % 8]) + raw[at + 1 :]
        for damaged in (flipped, raw[:at]):
            (folder / name).write_bytes(damaged)
            with pytest.raises(Problem, match=name) as caught:
                checkpoint.load(folder)
            assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "checkpoint.damaged")
        if name != "manifest.json":  # a cut shows without any manifest
            with pytest.raises(Problem, match=name):
                tensors.header(folder / name)
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found == folder.with_name("step-00000001")
    assert len(said) == 1
    assert f"{folder.name}/{name}" in said[0]


def test_a_file_system_without_folder_sync_is_no_fault(tmp_path, monkeypatch):
    class NoSync(disk.System):
        @staticmethod
        def fsync(handle: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(disk, "system", NoSync())
    files.write(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
