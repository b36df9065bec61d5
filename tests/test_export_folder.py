"""What goes with exported weights: config, preprocessing, card, checksums; and untrained weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photographs
from PIL import Image
from torchvision.transforms.v2.functional import resize

from clctl.commands.export import Order, _without_places, export
from clctl.console import Talk
from clctl.export import _scores
from clctl.export._card import _scores as table
from clctl.export._card import card
from clctl.export._subject import Subject
from clctl.images import Images
from clctl.store import reference
from clctl.views.apply import prepare

ROOT = Path(__file__).parents[1]
ALL = {"README.md", "SHA256SUMS", "config.json", "preprocessing.json"}


def untrained(recipe: str, target: str, out: Path, clctl, *more: object) -> Path:
    answer = clctl("export", "--init", recipe, "--to", target, "-o", out, "--json", *more)
    assert answer.code == 0, answer.err
    return Path(answer.document["folder"])


def recipe(folder: Path, encoder: str, **settings: object) -> str:
    """A recipe with this encoder, on 32 pixels."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(
        {
            "name": "fresh",
            "data": {"name": "digits"},
            "method": {"name": "simclr"},
            "encoder": {"name": encoder, **settings},
            "views": {"size": 32, "groups": [{"count": 2}]},
            "train": {"epochs": 1, "batch_size": 32},
            "optimizer": {"name": "sgd", "lr": 0.1},
        }
    )
    (folder / "fresh.yaml").write_text(text)
    return str(folder / "fresh.yaml")


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A finished run with a score of its newest checkpoint and one of other weights."""
    folder = tmp_path_factory.mktemp("copied") / "run"
    shutil.copytree(trained[0], folder)
    kept = next((folder / "evaluations").glob("knn-eval*.json"))
    document = json.loads(kept.read_text())
    document["checkpoint"]["sha256"] = "0" * 64
    document["metrics"]["top1"] = 0.123
    (folder / "evaluations" / "other.json").write_text(json.dumps(document))
    (folder / "evaluations" / "diagnose.json").write_text('{"schema": "clctl/diagnose/1"}')
    return folder


def test_every_file_is_there_and_the_sums_are_true(run, clctl, tmp_path):
    answer = clctl("export", run, "--to", "safetensors", "-o", tmp_path, "--json")
    folder = Path(answer.document["folder"])
    assert set(os.listdir(folder)) == ALL | {"model.safetensors"}
    assert set(answer.document["files"]) == ALL | {"model.safetensors"}
    command = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 4
    assert clctl("knn-eval", folder, "--json").document["metrics"]["top1"] > 0.5


def test_the_card_tells_the_scores_of_these_weights_and_no_others(run, clctl, tmp_path):
    found = json.loads(next((run / "evaluations").glob("knn-eval*.json")).read_text())
    folder = Path(
        clctl("export", run, "--to", "safetensors", "-o", tmp_path, "--json").document["folder"]
    )
    card = (folder / "README.md").read_text("utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| knn-eval"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    share = [f"{100 * v:.1f} %" for v in (found["metrics"]["top1"], *found["top1_ci95"])]
    assert cells[4] == f"{share[0]} ({share[1]} to {share[2]})"
    rivals = [found["baselines"][name] for name in ("random_init", "pixels", "chance")]
    assert cells[5:] == [f"{100 * v:.1f} %" for v in rivals]
    assert "12.3 %" not in card
    assert found["data"]["fingerprint"] in card
    assert "torch 2" in card


def test_nothing_personal_is_handed_over_and_the_bytes_are_the_same(clctl, tmp_path):
    for name in ("red", "blue"):
        photographs(tmp_path / "secret-place" / "my|pictures" / name, 4)
    data = tmp_path / "secret-place" / "my|pictures"
    source = recipe(tmp_path, "resnet_small", width=8)
    first, again = (
        untrained(source, "safetensors", tmp_path / n, clctl, "--data", data) for n in "ab"
    )
    for name in os.listdir(first):
        content = (first / name).read_bytes()
        assert content == (again / name).read_bytes()
        for word in ("secret-place", str(tmp_path)):
            assert word.encode() not in content, name
    recipe_path = json.loads((first / "config.json").read_text())["clctl"]["recipe"]["data"]["path"]
    assert recipe_path == "my|pictures"


def test_weights_that_training_began_with_are_told_without_their_place():
    recipe = {"encoder": {"weights": "/secret/first.safetensors"}, "data": {"name": "digits"}}
    about = _without_places({"recipe": recipe, "step": 3, "init_from": "ab12"})
    assert about["recipe"]["encoder"]["weights"] == "first.safetensors"
    assert about["recipe"]["data"] == recipe["data"]
    one = Subject(
        *("one", "resnet_small", {}, torch.nn.Linear(2, 2), 8, (0.5,) * 3, (0.5,) * 3, about)
    )
    one.encoder.width = 2
    text = card(one, "onnx", "model.onnx", "")
    assert "| started from | first.safetensors, sha256 ab12 |" in text
    assert "secret" not in text


def test_a_name_from_the_file_system_stays_text_in_the_card(tmp_path):
    document = {
        "schema": "clctl/knn-eval/1",
        "checkpoint": {"sha256": "a"},
        "metrics": {"top1": 0.5},
        "top1_ci95": [0.4, 0.6],
        "data": {"name": "<b>|x`", "test": "test", "test_images": 4},
        "baselines": {"chance": 0.1, "random_init": {"top1": 0.2}, "pixels": None},
        "protocol": {"k": 20, "temperature": 0.07},
    }
    (tmp_path / "one.json").write_text(json.dumps(document))
    (tmp_path / "two.json").write_text(json.dumps({**document, "top1_ci95": None}))
    (row,) = _scores.rows(tmp_path, "a")
    assert row.beside == {"chance": 0.1, "random_init": 0.2}
    assert row.protocol == "knn-eval, k 20, temperature 0.07"
    assert _scores.rows(tmp_path, "b") == _scores.rows(tmp_path / "none", "a") == ()
    assert r"\<b\>\|x\` test" in table((row,))


@pytest.mark.parametrize("shape", [(67, 50), (20, 25)])
def test_preprocessing_can_be_followed_to_the_number(clctl, tmp_path, shape):
    folder = untrained(recipe(tmp_path, "resnet_small", width=8), "safetensors", tmp_path, clctl)
    told = json.loads((folder / "preprocessing.json").read_text())
    assert told["crop_corner"] == "round((side - square) / 2), halves to even"
    assert told["interpolation"] == "bilinear, antialiased"
    assert told["rounding"].startswith("to whole levels of 255 where the picture shrinks")
    rng = np.random.default_rng(0)
    whole = torch.from_numpy(rng.integers(0, 256, (1, *shape, 3), dtype=np.uint8))
    whole = whole.permute(0, 3, 1, 2)
    side, size = min(shape), told["size"]
    top, left = (round((n - side) / 2) for n in shape)
    square = whole[:, :, top : top + side, left : left + side]
    source = square if side > size else square.float()  # uint8 gives whole levels
    sized = resize(source, [size, size], antialias=True)
    mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    x = (sized / 255 * told["range"][1] - mean) / std
    wanted = prepare(
        Images(whole, torch.tensor([shape])), size, tuple(told["mean"]), tuple(told["std"])
    )
    torch.testing.assert_close(x, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("encoder", "settings", "target"),
    [
        ("resnet18", {"stem": "small"}, "torchvision"),
        ("vit_tiny", {"patch": 8}, "timm"),
        ("timm/convnext_atto", {}, "timm"),
        ("resnet_small", {"width": 8}, "safetensors"),
    ],
)
def test_untrained_weights_are_handed_over_without_data_or_checkpoint(
    clctl, tmp_path, encoder, settings, target
):
    source = recipe(tmp_path, encoder, **settings)
    answer = clctl("export", "--init", source, "--to", target, "-o", tmp_path, "--verify", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["verify"]["met"]
    assert answer.document["verify"]["largest_feature"] > 0
    folder = Path(answer.document["folder"])
    assert "Untrained weights" in (folder / "README.md").read_text("utf-8")
    found = reference.find(str(folder))
    assert found.about["step"] == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["facts"]["encoder"] == encoder
    assert config["target"] == target


def test_the_lines_of_the_card_run_in_the_folder(clctl, tmp_path):
    folder = untrained(recipe(tmp_path, "vit_tiny", patch=8), "timm", tmp_path, clctl)
    card = (folder / "README.md").read_text("utf-8")
    lines = card.partition("```python\n")[2].partition("```")[0]
    Image.new("RGB", (40, 36), "orange").save(folder / "picture.jpg")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = f"{lines}\nprint(tuple(features.shape))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 192)", done.stderr


@pytest.mark.parametrize(("encoder", "settings"), [("resnet18", {"stem": "imagenet"}), ("vit_tiny", {"patch": 8})])  # fmt: skip
def test_transformers_reads_a_timm_folder(clctl, tmp_path, encoder, settings):
    transformers = pytest.importorskip("transformers")
    source = recipe(tmp_path, encoder, **settings)
    report = export(Order(None, "timm", out=tmp_path, init=source), Talk(quiet=True))
    model = transformers.AutoModel.from_pretrained(report.document["folder"]).eval()
    from clctl.commands._trained import open_checkpoint

    ours = open_checkpoint(report.document["folder"], Talk(quiet=True)).encoder
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(x).pooler_output, ours(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--to", "onnx"), 2),
        (("CKPT", "--init", "byol", "--to", "onnx", "-o", "DIR"), 2),
        (("--init", "byol", "--to", "onnx"), 2),
        (("--init", "no-such-recipe", "--to", "onnx", "-o", "DIR"), 3),
    ],
)
def test_export_is_of_one_thing(clctl, tmp_path, words, code):
    typed = [str(tmp_path / "new") if word == "DIR" else word for word in words]
    answer = clctl("export", *typed)
    assert answer.code == code
    assert answer.err
    assert not (tmp_path / "new").exists()


def test_a_damaged_export_is_no_checkpoint(clctl, tmp_path):
    folder = untrained(recipe(tmp_path, "resnet_small", width=8), "safetensors", tmp_path, clctl)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    answer = clctl("inspect", folder)
    assert answer.code == 5
    assert "sha256" in answer.err


def test_inspect_loads_no_torch(run):
    script = (
        "import sys; from clctl.__main__ import main\n"
        f"try: main(['inspect', {str(run)!r}, '-q'])\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
