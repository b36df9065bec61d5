"""Bad input: a message with a remedy, the right exit code, no traceback, nothing written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import photographs

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(text: str) -> str:
    Path("r.yaml").write_text(text)
    return "r.yaml"


GOOD = (RECIPES / "simclr.yaml").read_text()
WRONG = {
    "empty": ("", "empty"),
    "not yaml": ("a: [1, 2\nb: }", "r.yaml:2"),
    "not a mapping": ("- 1\n- 2\n", "r.yaml"),
    "unknown key": (GOOD.replace("epochs:", "epohcs:"), "epochs"),
    "unknown section": (GOOD + "\ntrian:\n  epochs: 3\n", "train"),
    "wrong type": (GOOD.replace("batch_size: 64", "batch_size: many"), "whole number"),
    "out of range": (GOOD.replace("temperature: 0.2", "temperature: -1"), "temperature"),
    "unknown method": (GOOD.replace("name: simclr", "name: simclrr"), "simclr"),
    "three views": (GOOD.replace("count: 2", "count: 3"), "2 views"),
}


@pytest.mark.parametrize("case", WRONG)
def test_recipes(case, clctl, here):
    text, needle = WRONG[case]
    answer = clctl("pretrain", recipe(text))
    assert answer.code == 3
    assert needle in answer.err
    assert answer.out == ""
    assert [p.name for p in here.iterdir()] == ["r.yaml"]


def packaged(name: str, *changes: tuple[str, str]) -> str:
    text = (RECIPES / f"{name}.yaml").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


CONFLICTS = {
    "dino of two views": (("dino", ("    - count: 2", "    - count: 1")), "groups:", "3 or more"),
    "dino small first": (
        (
            "dino",
            ("- count: 1\n", "- count: 2\n"),
            ("groups:\n    - count: 2\n", "groups:\n    - count: 1\n      size: 8\n"),
        ),
        "groups:",
        "8 and 16",
    ),
    "supcon without labels": (
        ("supcon", ("name: digits", "name: folder\n  path: x\n  labels: none")),
        "labels: none",
        "learns from labels",
    ),
    "batch of one": (
        ("simclr", ("batch_size: 64", "batch_size: 1")),
        "batch_size: 1",
        "at least 2",
    ),
    "projector of nothing": (("simclr", ("[128]", "[0]")), "[0]", "at least 1"),
    "temperature of zero": (
        ("simclr", ("temperature: 0.2", "temperature: 0")),
        "temperature: 0",
        "above 0",
    ),
    "patch that does not divide": (
        ("simclr", ("name: resnet_small\n  width: 32", "name: vit_tiny\n  patch: 5")),
        "patch: 5",
        "16",
    ),
    "groups of keys": (
        ("moco_v2", ("bn_groups: 8", "bn_groups: 7")),
        "bn_groups: 7",
        "bn_groups to 8",
    ),
    "groups of one key": (
        ("moco_v2", ("bn_groups: 8", "bn_groups: 64")),
        "bn_groups: 64",
        "bn_groups to 32",
    ),
    "batch norm in cpc": (("cpc", ("  norm: group\n", "")), "encoder:", "group"),
    "too few rows in cpc": (("cpc", ("steps: 2", "steps: 9")), "steps: 9", "rows"),
    "classes that do not fit": (
        ("triplet", ("per_class: 4", "per_class: 7")),
        "per_class: 7",
        "multiple",
    ),
    "one view for two": (("simclr", ("count: 2", "count: 1")), "groups:", "2 views"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_cannot_work_together_is_refused_at_its_line(case, clctl, here):
    (name, *changes), line, needle = CONFLICTS[case]
    text = packaged(name, *changes)
    answer = clctl("pretrain", recipe(text), "--json")
    assert answer.code == 3, answer.err
    error = answer.document
    assert error["file"] == "r.yaml"
    assert line in text.splitlines()[error["line"] - 1]
    assert needle in error["message"] + (error["suggestion"] or "")
    assert [p.name for p in here.iterdir()] == ["r.yaml"]


def test_a_queue_longer_than_the_data_is_refused_with_the_right_number(clctl, here):
    answer = clctl("pretrain", "moco_v2", "--set", "method.queue=1438")
    assert answer.code == 3
    assert "1,438 is longer than the training set of 1,437" in answer.err
    assert "method.queue=704" in answer.err
    assert list(here.iterdir()) == []


def test_several_mistakes_at_once_as_json(clctl, here):
    text = GOOD.replace("epochs:", "epohcs:").replace("batch_size: 64", "batch_size: many")
    answer = clctl("validate", recipe(text), "--json")
    assert answer.code == 3
    error = answer.document
    assert error["schema"] == "clctl/error/1"
    assert error["exit"] == 3
    assert error["file"] == "r.yaml"
    lines = [error["line"], *(other["line"] for other in error["others"])]
    wanted = [i for i, row in enumerate(text.splitlines(), 1) if "epohcs" in row or "many" in row]
    assert lines == wanted


def test_recipe_missing(clctl, here):
    answer = clctl("pretrain", "nope.yaml")
    assert answer.code == 3
    assert "nope.yaml" in answer.err


@pytest.mark.parametrize(
    "setting", ["train.epohcs=3", "train.epochs=many", "train.epochs", "x.y=1"]
)
def test_overrides(setting, clctl, here):
    answer = clctl("pretrain", "simclr", "--set", setting)
    assert answer.code == 3
    assert setting in answer.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", [("frobnicate",), ("pretrain",), ("knn-eval", "x", "--k", "y")])
def test_usage(command, clctl):
    answer = clctl(*command, "--json")
    assert answer.code == 2
    assert answer.document["exit"] == 2


def test_data_folders(clctl, here):
    assert clctl("pretrain", "folder", "--data", "nowhere").code == 4
    Path("void").mkdir()
    assert clctl("pretrain", "folder", "--data", "void").code == 4
    photographs(Path("one"), 1)
    assert clctl("pretrain", "folder", "--data", "one").code == 4
    photographs(Path("few"), 12)
    few = clctl("pretrain", "folder", "--data", "few")
    assert few.code == 4
    assert "train.batch_size=8" in few.err
    assert not Path("runs").exists()


def test_bad_pictures(clctl, here):
    photographs(Path("p"), 40)
    for name in ("cut.png", "cut2.png"):
        Path("p", name).write_bytes(Path("p/000.png").read_bytes()[:200])
    Path("p/text.jpg").write_text("not a picture")
    stopped = clctl("pretrain", "folder", "--data", "p")
    assert stopped.code == 4
    for name in ("cut.png", "cut2.png", "text.jpg"):
        assert name in stopped.err
    assert "data.bad_images=skip" in stopped.err
    skip = ("--set", "data.bad_images=skip", "--set", "train.batch_size=16")
    over = clctl("pretrain", "folder", "--data", "p", *skip)
    assert over.code == 4
    gone_on = clctl(
        "pretrain", "folder", "--data", "p", *skip, "--set", "data.max_bad=0.1", "--dry-run"
    )
    assert gone_on.code == 0, gone_on.err
    assert "3" in gone_on.err
    assert "40 train" in gone_on.err


def test_device_absent(clctl, here):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    answer = clctl("pretrain", "simclr", "--device", "cuda")
    assert answer.code == 8
    assert clctl("pretrain", "simclr", "--device", "gpu").code == 2
    assert list(here.iterdir()) == []


def test_output_that_cannot_be_written(clctl, here):
    Path("file").write_text("")
    answer = clctl("pretrain", "simclr", "--out", "file/run")
    assert answer.code == 8
    assert "file" in answer.err
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    assert clctl("pretrain", "simclr", "--out", "mine").code == 6
    assert [p.name for p in Path("mine").iterdir()] == ["letter.txt"]


def test_max_time_and_init_from(clctl, here):
    assert clctl("pretrain", "simclr", "--max-time", "soon").code == 2
    assert clctl("pretrain", "simclr", "--init-from", "nowhere").code == 5
    assert list(here.iterdir()) == []


def test_checkpoints(clctl, here):
    Path("void").mkdir()
    Path("x.safetensors").write_bytes(b"\x10" * 64)
    for ckpt in ("nowhere", "void", "x.safetensors"):
        assert clctl("knn-eval", ckpt).code == 5
        assert clctl("inspect", ckpt).code == 5
    assert clctl("export", "x.safetensors", "--to", "floppy").code == 2


def test_not_finite_stops_with_the_last_good_checkpoint(clctl, here):
    answer = clctl(
        *("pretrain", "simclr", "--out", "run", "--set", "train.precision=fp32"),
        *("--set", "optimizer.lr=1e30", "--set", "schedule.warmup=0"),
    )
    assert answer.code == 7
    assert "not finite" in answer.err
    assert not list(Path("run/checkpoints").iterdir())


def test_damaged_checkpoints(clctl, here):
    done = clctl("pretrain", "simclr", "--out", "run", "--set", "train.epochs=2", "--json")
    last = Path(done.document["checkpoint"])
    spare = Path(shutil.copytree(last, "spare"))
    whole = (spare / "model.safetensors").read_bytes()
    (spare / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    named = clctl("knn-eval", "spare")
    assert named.code == 5
    assert "model.safetensors" in named.err
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    (last / "model.safetensors").write_bytes(flipped)
    fallen = clctl("knn-eval", "run", "--json")
    assert fallen.code == 0
    assert fallen.document["checkpoint"]["step"] == 22
    assert last.name in fallen.err


def test_arrays_that_are_none(clctl, here):
    np.savez("a.npz", pictures=np.zeros((4, 8, 8), np.uint8))
    answer = clctl("pretrain", "simclr", "--data", "a.npz")
    assert answer.code == 4
    assert "images" in answer.err
    Path("b.npz").write_bytes(b"PK not really")
    assert clctl("pretrain", "simclr", "--data", "b.npz").code == 4
