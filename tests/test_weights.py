"""encoder.weights: public weights and files of the user's that training starts from."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from conftest import FEW
from safetensors.torch import load_file, save_file

from clctl.console import Problem
from clctl.encoders import _public, _weights, resnet18, resnet_small, vit_tiny
from clctl.encoders import timm as of_timm
from clctl.recipe.read import read
from clctl.store import reading, tensors

ONE = (*FEW[2:], "--set", "train.epochs=1", "--set", "optimizer.lr=1e-12")


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def filled(config, size, state, prefix=None):
    torch.manual_seed(5)
    encoder = config.build(size)
    fresh = {k: v.clone() for k, v in encoder.state_dict().items()}
    words = _weights.fill(encoder, state, "the file", prefix)
    return encoder, fresh, words


def test_torchvisions_weights_give_torchvisions_features(resnet):
    encoder, _, words = filled(resnet18.Config(), 64, resnet)
    assert words == "100 of 100 tensors match; dropped fc (2 tensors)"
    model = torchvision.models.resnet18()
    model.load_state_dict(resnet)
    model.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(x), model.eval()(x))


def test_the_small_stem_keeps_its_own_convolution_and_says_so(resnet):
    encoder, fresh, words = filled(resnet18.Config(), 32, resnet)
    assert words.startswith("99 of 100 tensors match; conv1.weight stays random, for it is 7x7")
    state = encoder.state_dict()
    assert torch.equal(state["conv1.weight"], fresh["conv1.weight"])
    assert all(torch.equal(state[k], resnet[k]) for k in state if k != "conv1.weight")


def test_timms_vit_gives_timms_features():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7).eval()
    encoder, _, words = filled(vit_tiny.Config(), 64, model.state_dict())
    assert words == "150 of 150 tensors match; dropped head (2 tensors)"
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.eval()(x), model.forward_head(model.forward_features(x), pre_logits=True)
        )


def test_positions_of_another_grid_are_those_that_the_larger_encoder_would_use():
    big = vit_tiny.Config(patch=16).build(64).eval()
    encoder, _, words = filled(vit_tiny.Config(patch=16), 32, big.state_dict())
    assert "positions resampled from 4x4 to 2x2" in words
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x), big(x))


def test_patches_of_another_size_stay_random():
    other = vit_tiny.Config(patch=16).build(64).state_dict()
    encoder, fresh, words = filled(vit_tiny.Config(patch=8), 32, other)
    assert "patch_embed.proj.weight stays random, for it is 16x16 there, 8x8 here" in words
    name = "patch_embed.proj.weight"
    assert torch.equal(encoder.state_dict()[name], fresh[name])


def test_any_model_of_timm_takes_timms_keys():
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=5)
    encoder, _, words = filled(of_timm.Config(name="timm/convnext_atto"), 32, model.state_dict())
    assert words.endswith("match; dropped head.fc (2 tensors)")
    theirs = model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (resnet18.Config(norm="group"), lambda s: s),
        (resnet18.Config(), lambda s: torchvision.models.resnet34().state_dict()),
        (resnet18.Config(), lambda s: torchvision.models.resnet50().state_dict()),
        (resnet18.Config(), lambda s: {k: v for k, v in s.items() if k != "bn1.weight"}),
        (resnet18.Config(), lambda s: {**s, "norm_pre.weight": torch.ones(2)}),
        (resnet18.Config(), lambda s: {}),
        (resnet_small.Config(), lambda s: s),
        (vit_tiny.Config(), lambda s: s),
    ],
    ids=["norm", "deeper", "bottleneck", "missing", "more", "empty", "small", "vit"],
)
def test_another_architecture_is_refused_with_the_share(config, change, resnet):
    with pytest.raises(Problem, match=r"the file: \d+ of \d+ tensors match") as refused:
        filled(config, 64, change(resnet))
    assert (refused.value.exit, refused.value.code) == (5, "weights.mismatch")


def test_numbers_that_are_not_finite_are_refused(resnet):
    broken = {**resnet, "bn1.weight": torch.full((64,), float("nan"))}
    with pytest.raises(Problem, match=r"bn1\.weight hold numbers that are not finite"):
        filled(resnet18.Config(), 64, broken)


RECIPE = """
data: {name: digits}
encoder: {name: NAME, weights: WEIGHTS}
method: {name: simclr, projector: [16]}
views: {size: 16, groups: [{count: 2}]}
optimizer: {name: sgd, lr: 0.1}
"""


def recipe(folder, name, weights):
    path = folder / "r.yaml"
    path.write_text(RECIPE.replace("NAME", name).replace("WEIGHTS", weights))
    return path


def test_a_relative_file_counts_from_the_recipe(tmp_path):
    assert read(recipe(tmp_path, "resnet18", "imagenet")).encoder.weights == "imagenet"
    taken = read(recipe(tmp_path, "resnet18", "mine.safetensors")).encoder.weights
    assert taken == str(tmp_path / "mine.safetensors")
    assert resnet18.Config().weights is None


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("resnet_small", "imagenet", "resnet_small has no public ImageNet weights"),
        ("resnet18, norm: group", "imagenet", "are of batch norm"),
        ("resnet18", "mine.pth", "must match"),
        ("resnet18", "ImageNet", "must match"),
    ],
)
def test_weights_that_cannot_be_are_told_with_their_place(clctl, tmp_path, name, weights, said):
    answer = clctl("validate", recipe(tmp_path, name, weights))
    assert (answer.code, said in answer.err, "r.yaml:3:" in answer.err) == (3, True, True)


def test_public_weights_that_are_not_there_are_a_problem_with_a_remedy(
    clctl, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    answer = clctl("pretrain", recipe(tmp_path, "resnet18", "imagenet"), "--out", tmp_path / "run")
    assert answer.code == 4
    assert "resnet18-f37072fd.pth is not there" in answer.err
    assert "--download" in answer.err
    assert not (tmp_path / "run").exists()


def test_public_weights_are_fetched_when_asked_and_checked(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()
    state = {"conv1.weight": torch.arange(3.0)}
    torch.save(state, tmp_path / "net" / "w.pth")
    digest = reading.digest(tmp_path / "net" / "w.pth")[:8]
    there = (tmp_path / "net" / "w.pth").rename(tmp_path / "net" / f"w-{digest}.pth")
    weights = {"IMAGENET1K_V1": SimpleNamespace(url=there.as_uri())}
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.raises(Problem, match="is not there"):
        _public.public("resnet18", download=False)
    path, found = _public.public("resnet18", download=True)
    assert torch.equal(found["conv1.weight"], state["conv1.weight"])
    there.unlink()
    path.write_bytes(b"half")
    with pytest.raises(Problem, match=f"does not begin with {digest}") as damaged:
        _public.public("resnet18", download=False)
    assert damaged.value.exit == 5
    path.unlink()
    with pytest.raises(Problem, match="cannot be fetched") as gone:
        _public.public("resnet18", download=True)
    assert gone.value.exit == 4


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("vit_tiny", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("timm/convnext_atto", "convnext_atto.d2_in1k"),
    ],
)
def test_timms_weights_come_from_the_cache_of_the_hub(name, repository, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Problem, match="is not in cache") as absent:
        _public.public(name, download=False)
    assert (absent.value.exit, repository in absent.value.message) == (4, True)
    home = tmp_path / f"models--timm--{repository}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file({"head.weight": torch.ones(2)}, snapshot / "model.safetensors")
    assert list(_public.public(name, download=False)[1]) == ["head.weight"]


def test_a_model_without_public_weights_is_said():
    with pytest.raises(Problem, match="no public weights of vit_nano") as refused:
        _public.public("timm/vit_nano", download=False)
    assert refused.value.exit == 3


@pytest.fixture(scope="module")
def begun(trained, tmp_path_factory):
    """A run that starts from a file with the encoder of another, and that file, removed since."""
    from clctl.commands.pretrain import Order, pretrain
    from clctl.console import Talk

    folder = tmp_path_factory.mktemp("begun")
    source = max((trained[0] / "checkpoints").rglob("model.safetensors"))
    saved = load_file(source)
    state = {
        k.replace("encoder.", "module.backbone."): v
        for k, v in saved.items()
        if k.startswith("encoder.")
    }
    weights = folder / "mine.safetensors"
    tensors.write(weights, {**state, "module.fc.weight": torch.ones(2)}, {})
    digest = reading.digest(weights)
    changes = (*ONE[1::2], f"encoder.weights={weights}")
    pretrain(Order("byol", changes, out=folder / "run"), Talk(True))
    weights.unlink()
    return folder / "run", saved, digest, changes


def test_training_begins_at_the_file(begun):
    run, saved, digest, _ = begun
    model = load_file(max((run / "checkpoints").rglob("model.safetensors")))
    for prefix in ("encoder.", "teacher.encoder."):
        torch.testing.assert_close(
            model[prefix + "conv1.weight"], saved["encoder.conv1.weight"], atol=1e-6, rtol=0
        )
    state = json.loads((run / "run.json").read_text())
    assert state["identity"]["init"] == digest
    assert "weights" not in state["identity"]["encoder"]  # its path does not matter
    assert state["initial"] == reading.digest(run / "initial.safetensors")
    kept = load_file(run / "initial.safetensors")
    assert all(torch.equal(v, saved[f"encoder.{k}"]) for k, v in kept.items())


def test_its_start_is_a_baseline_though_the_file_is_gone(begun, trained, clctl):
    report = clctl("knn-eval", begun[0], "--json").document
    start = clctl("knn-eval", trained[0], "--json").document["metrics"]["top1"]
    assert report["baselines"]["initial"] == start


def test_the_run_is_continued_from_its_own_copy(begun, clctl, tmp_path):
    run = shutil.copytree(begun[0], tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    answer = clctl("pretrain", run, "--json")
    assert answer.code == 0, answer.err
    models = [max((f / "checkpoints").rglob("model.safetensors")) for f in (begun[0], run)]
    first, second = (load_file(m) for m in models)
    assert all(torch.equal(first[k], second[k]) for k in first)
    (run / "initial.safetensors").write_bytes(b"x")
    damaged = clctl("pretrain", run)
    assert (damaged.code, "initial.safetensors is damaged" in damaged.err) == (5, True)
    (run / "initial.safetensors").unlink()
    gone = clctl("knn-eval", run, "--json")
    assert gone.document["baselines"]["initial"] is None
    assert "no such baseline" in gone.err


def test_a_file_that_is_not_there_and_two_starts(begun, trained, clctl, tmp_path):
    change = ("--set", f"encoder.weights={tmp_path / 'no.safetensors'}")
    answer = clctl("pretrain", "byol", *change, "--out", tmp_path / "run")
    assert (answer.code, "no.safetensors does not exist" in answer.err) == (5, True)
    assert "clctl convert" in answer.err
    both = clctl("pretrain", "byol", *change, "--init-from", trained[0])
    assert (both.code, "cannot both be" in both.err) == (2, True)


def test_a_file_of_clctl_names_its_own_encoder(begun, clctl, tmp_path):
    model = max((Path(begun[0]) / "checkpoints").rglob("model.safetensors"))
    change = ("--set", f"encoder.weights={model}")
    answer = clctl("pretrain", "byol", *ONE, *change, "--out", tmp_path / "run", "--dry-run")
    assert answer.code == 0, answer.err
    assert "tensors match" in answer.err
