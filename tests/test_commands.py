"""Every command on the embedded digits, as a user would type it, in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import FEW, photographs
from PIL import Image
from safetensors import safe_open


def test_pretrain_document_and_folder(trained):
    folder, document = trained
    assert document["schema"] == "clctl/pretrain/1"
    assert document["steps"] == 44
    assert document["resumed_from"] == 0
    assert document["images_per_second"] > 0
    assert document["seconds"] > 0
    assert 0 < document["metrics"]["loss"] < document["metrics"]["loss_chance"]
    checkpoint = Path(document["checkpoint"])
    assert checkpoint == folder / "checkpoints" / "step-00000044"
    names = {p.name for p in checkpoint.iterdir()}
    assert names == {"model.safetensors", "state.safetensors", "manifest.json"}
    for name in ("recipe.yaml", "recipe.resolved.json", "run.json", "metrics.jsonl", "report.json"):
        assert (folder / name).is_file()
    assert (folder / "pictures" / "views.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / "report.json").read_text())
    assert len(report.pop("document_sha256")) == 64
    assert report == document
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [10, 20, 30, 40, 44]


def test_same_command_again_is_done(trained, clctl):
    folder, document = trained
    again = clctl("pretrain", "simclr", *FEW, "--out", folder, "--json")
    assert again.code == 0
    assert again.document == document
    assert "already done" in again.err
    assert clctl("pretrain", folder, "-q").out.strip() == str(folder)


def test_other_recipe_in_the_same_folder_is_refused(trained, clctl):
    folder, _ = trained
    refused = clctl("pretrain", "simclr", "--set", "train.epochs=3", "--out", folder)
    assert refused.code == 6
    assert "train.epochs: 2 -> 3" in refused.err
    assert 'train.precision: "fp32" -> "auto"' in refused.err


def test_cadence_of_checkpoints_is_no_other_run(trained, clctl):
    folder, _ = trained
    same = clctl("pretrain", "simclr", *FEW, "--set", "checkpoint.keep=7", "--out", folder)
    assert same.code == 0
    assert "already done" in same.err


def test_knn_eval(trained, clctl):
    folder, document = trained
    answer = clctl("knn-eval", folder, "--json")
    report = answer.document
    assert answer.code == 0
    assert report["schema"] == "clctl/knn-eval/1"
    assert report["metrics"]["top1"] == document["metrics"]["top1"]
    low, high = report["top1_ci95"]
    assert low < report["metrics"]["top1"] < high
    assert report["baselines"]["chance"] == pytest.approx(0.1)
    assert 0.5 < report["baselines"]["random_init"] < 1
    assert 0.9 < report["baselines"]["pixels"] < 1
    assert report["protocol"]["k"] == 20
    assert report["data"]["test_images"] == 360
    with np.load(folder / "evaluations" / "knn-eval-digits-test-k20-t0.07.npz") as kept:
        right = (kept["predictions"] == kept["labels"]).mean()
        ids = set(kept["ids"].tolist())
    assert right == pytest.approx(report["metrics"]["top1"])
    assert len(ids) == 360


def test_knn_eval_gate_and_short_form(trained, clctl):
    folder, _ = trained
    assert clctl("knn-eval", folder, "--fail-under", "top1=0.5").code == 0
    failed = clctl("knn-eval", folder, "--fail-under", "top1=1.0", "-q")
    assert failed.code == 1
    assert 0.5 < float(failed.out) < 1
    assert failed.err == ""
    assert clctl("knn-eval", folder, "--fail-under", "top9=1.0").code == 2
    assert clctl("knn-eval", folder, "--k", 0).code == 2


def test_knn_eval_leave_one_out(trained, clctl):
    report = clctl("knn-eval", trained[0], "--split", "all", "--json").document
    assert report["protocol"]["how"] == "leave-one-out"
    assert report["data"]["test_images"] == 1797


def test_linear_probe(trained, clctl):
    report = clctl("linear-probe", trained[0], "--json").document
    assert report["schema"] == "clctl/linear-probe/1"
    assert report["metrics"]["top1"] > 0.85
    assert report["protocol"]["penalty"] in report["protocol"]["penalties"]
    held = report["protocol"]["held_out_top1"]
    assert held[f"{report['protocol']['penalty']:g}"] == max(held.values())


def test_a_named_file_and_checkpoint_score_alike(trained, clctl):
    folder, document = trained
    place = Path(document["checkpoint"])
    for ckpt in (place, place / "model.safetensors"):
        report = clctl("knn-eval", ckpt, "--json").document
        assert report["metrics"] == clctl("knn-eval", folder, "--json").document["metrics"]


@pytest.mark.parametrize("target", ["safetensors", "onnx"])
def test_export(trained, clctl, tmp_path, target):
    answer = clctl("export", trained[0], "--to", target, "--verify", "-o", tmp_path, "--json")
    assert answer.code == 0, answer.err
    assert answer.document["verify"]["largest_difference"] < 1e-3
    assert Path(answer.document["path"]).exists()
    assert "features = " in answer.document["paste"]


def test_exported_file_is_a_checkpoint(trained, clctl, tmp_path):
    path = clctl("export", trained[0], "--to", "safetensors", "-o", tmp_path, "-q").out.strip()
    with safe_open(path, "pt") as file:
        assert "preprocessing" in file.metadata()
    score = clctl("knn-eval", path, "--json").document["metrics"]
    assert score == clctl("knn-eval", trained[0], "--json").document["metrics"]


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_export_refused_with_what_works(trained, clctl, target, tmp_path):
    refused = clctl("export", trained[0], "--to", target, "-o", tmp_path / "new")
    assert refused.code == 2
    assert "--to onnx" in refused.err
    assert not (tmp_path / "new").exists()


def test_inspect(trained, clctl):
    folder, _ = trained
    report = clctl("inspect", folder, "--json").document
    assert report["about"]["recipe"]["method"]["name"] == "simclr"
    assert report["manifest"]["step"] == 44
    assert report["tensors"]["encoder.conv1.weight"]["shape"] == [32, 3, 3, 3]
    assert clctl("inspect", folder, "--data", "digits", "--json").document["data"]["same"]


def test_init_from_starts_at_the_encoder(trained, clctl, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder, document = trained
    out = tmp_path / "second"
    arguments = ("byol", *FEW, "--set", "train.epochs=1", "--set", "optimizer.lr=1e-12")
    answer = clctl("pretrain", *arguments, "--init-from", folder, "--out", out, "--json")
    assert answer.code == 0, answer.err
    first = load_file(Path(document["checkpoint"]) / "model.safetensors")
    second = load_file(Path(answer.document["checkpoint"]) / "model.safetensors")
    assert torch.allclose(second["encoder.conv1.weight"], first["encoder.conv1.weight"], atol=1e-6)
    assert torch.allclose(
        second["teacher.encoder.conv1.weight"], first["encoder.conv1.weight"], atol=1e-6
    )
    other = clctl("pretrain", *arguments, "--set", "encoder.width=8", "--init-from", folder)
    assert other.code == 5
    assert "match" in other.err


def test_dry_run_writes_nothing(clctl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = clctl("pretrain", "byol", "--dry-run", "--json")
    assert answer.code == 0
    assert answer.document["steps"] > 0
    assert list(tmp_path.iterdir()) == []


def test_fresh_opens_a_sibling(clctl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("pretrain", "simclr", *FEW, "--set", "train.epochs=1", "-q")
    first = clctl(*command).out.strip()
    second = clctl(*command, "--fresh").out.strip()
    assert first.startswith("runs/simclr-")
    assert second == first + "-2"
    same = [Path(f, "checkpoints/step-00000022/model.safetensors") for f in (first, second)]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_views_picture(clctl, tmp_path):
    answer = clctl("views", "simclr", "-o", tmp_path / "v.png", "--json")
    assert answer.code == 0
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.size[1] > 500
    images = answer.document["images"]
    assert len(images) == 8
    assert images[0]["views"][0] != images[0]["views"][1]


def test_folder_from_pictures_to_score(clctl, tmp_path):
    for i, name in enumerate(("cats", "dogs", "owls")):
        photographs(tmp_path / "data" / "train" / name, 16, seed=i)
        photographs(tmp_path / "data" / "val" / name, 6, seed=i)
    settings = ("--set", "train.epochs=2", "--set", "train.batch_size=16", "--set", "views.size=32")
    out = ("--out", tmp_path / "run")
    answer = clctl("pretrain", "folder", "--data", tmp_path / "data", *settings, *out, "--json")
    assert answer.code == 0, answer.err
    assert "top5" not in answer.document["metrics"]
    assert "cats" in answer.err
    for command in ("knn-eval", "linear-probe"):
        report = clctl(command, tmp_path / "run", "--json").document
        assert report["data"]["test_images"] == 18
        assert report["data"]["classes"] == ["cats", "dogs", "owls"]
        assert report["baselines"]["chance"] == pytest.approx(1 / 3)


def test_folder_without_labels_is_a_full_citizen(clctl, tmp_path):
    photographs(tmp_path / "flat", 40)
    settings = ("--set", "train.epochs=2", "--set", "train.batch_size=16", "--set", "views.size=32")
    run = tmp_path / "run"
    answer = clctl("pretrain", "folder", "--data", tmp_path / "flat", *settings, "--out", run)
    assert answer.code == 0, answer.err
    assert "RankMe" in answer.out
    assert "random-init" in answer.out
    unlabelled = clctl("knn-eval", run)
    assert unlabelled.code == 4
    assert "--data" in unlabelled.err
    scored = clctl("knn-eval", run, "--data", "digits", "-q")
    assert scored.code == 0
    assert float(scored.out) > 0.5


@pytest.mark.parametrize("recipe", ["byol", "simclr", "folder", "cifar10/byol", "cifar10/simclr"])
def test_packaged_recipes_run(recipe, clctl, tmp_path):
    """A few steps of each recipe as it is, but for batches and heads that fit a test."""
    data = ()
    if recipe == "folder":
        photographs(tmp_path / "p", 20)
        data = ("--data", tmp_path / "p", "--set", "train.batch_size=8")
    elif "cifar10" in recipe:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / "train.npz", images=images, labels=np.arange(20) % 10)
        np.savez(tmp_path / "test.npz", images=images, labels=np.arange(20) % 10)
        data = ("--data", tmp_path, "--set", "train.batch_size=4")
    answer = clctl("pretrain", recipe, *data, "--dry-run")
    assert answer.code == 0, answer.err
    assert "would take" in answer.out


def test_recipe_prints_what_validates(clctl, tmp_path):
    (tmp_path / "mine.yaml").write_text(clctl("recipe", "simclr").out)
    answer = clctl("validate", tmp_path / "mine.yaml", "byol", "--json")
    assert answer.code == 0
    assert [row["ok"] for row in answer.document["recipes"]] == [True, True]


@pytest.mark.parametrize("what", ["methods", "encoders", "data", "recipes"])
def test_lists(what, clctl):
    rows = clctl("list", what, "--json").document[what]
    assert all(row["summary"] for row in rows)
    names = {row["name"] for row in rows}
    expected = {
        "methods": {"byol", "simclr"},
        "encoders": {"resnet18", "resnet34", "resnet50", "resnet_small"},
        "data": {"digits", "arrays", "folder"},
        "recipes": {"byol", "simclr", "folder", "cifar10/byol", "cifar10/simclr"},
    }
    assert expected[what] <= names


def test_the_list_of_methods_says_what_each_needs_and_keeps(clctl):
    rows = {row["name"]: row for row in clctl("list", "methods", "--json").document["methods"]}
    keys = {"year", "needs_negatives", "needs_labels", "views", "state", "prevents_collapse"}
    assert all(keys <= row.keys() and 2010 < row["year"] < 2030 for row in rows.values())
    assert rows["moco_v2"]["state"] == ["teacher", "queue"]
    assert [name for name, row in rows.items() if row["needs_labels"]] == ["supcon"]
    free = {name for name, row in rows.items() if not row["needs_negatives"]}
    assert free == {"barlow_twins", "byol", "dino", "simsiam", "swav", "vicreg"}
    assert "moco_v2 (2020)" in clctl("list", "methods").out
