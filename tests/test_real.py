"""Real pictures, when CLCTL_TEST_DATA names a folder of them: the whole way, as a user goes it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def real() -> Path:
    root = os.environ.get("CLCTL_TEST_DATA")
    if not root:
        pytest.skip("CLCTL_TEST_DATA names no folder")
    return Path(root)


def test_medical_folder_to_all_four_targets(real, clctl, tmp_path):
    run = tmp_path / "run"
    settings = ("--set", "encoder.name=resnet18", "--set", "train.epochs=1")
    answer = clctl("pretrain", "folder", "--data", real / "brain_mri", *settings, "--out", run)
    assert answer.code == 0, answer.err
    assert "2,298 train, 572 val" in answer.err
    assert "4 classes" in answer.err
    for command in ("knn-eval", "linear-probe"):
        report = clctl(command, run, "--json").document
        assert report["metrics"]["top1"] > report["baselines"]["majority"] + 0.2
        assert report["data"]["test_images"] == 572
    for target in ("safetensors", "torchvision", "timm", "onnx"):
        export = clctl("export", run, "--to", target, "--verify", "--json")
        assert export.code == 0, export.err
        assert export.document["verify"]["largest_difference"] < 1e-3


def test_cifar_arrays(real, clctl, tmp_path):
    small = ("--set", "encoder.name=resnet_small", "--set", "train.epochs=1")
    data = ("--data", real / "cifar10")
    answer = clctl("pretrain", "cifar10/simclr", *data, *small, "--dry-run")
    assert answer.code == 0, answer.err
    assert "50,000 train, 10,000 test" in answer.err
    assert "10 classes" in answer.err
