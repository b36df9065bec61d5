"""Exports of vision transformers, of timm's models and of encoders with group norm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from exporting import SIZE, Written, noise, pasted, writer
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from clctl.console import Exit, Problem
from clctl.export import _folder, _subject
from clctl.export._subject import Subject
from clctl.recipe import plugins
from clctl.rng import generator, seeded
from clctl.store import reference

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALL, OWN = ["onnx", "safetensors", "timm"], ["onnx", "safetensors"]
ENCODERS = {
    "cls": ("vit_tiny", {"patch": 8, "drop_path": 0.1, "frozen_patch": True}, ALL),
    "mean": ("vit_small", {"patch": 4, "pool": "mean"}, ALL),
    "base": ("vit_base", {}, ALL),
    "convnext": ("timm/convnext_atto", {}, ALL),
    "timms-vit": ("timm/vit_tiny_patch16_224", {}, ALL),
    "mobilenet": ("timm/mobilenetv3_small_050", {}, ALL),
    "group18": ("resnet18", {"norm": "group", "stem": "imagenet"}, OWN),
    "group": ("resnet_small", {"norm": "group"}, OWN),
}
PAIRS = [(name, target) for name, (_, _, able) in ENCODERS.items() for target in able]
# No node that another graph does not have, and seconds to trace.
for name in ("mean", "base", "timms-vit", "mobilenet", "group18"):
    PAIRS.remove((name, "onnx"))
PAIRS.remove(("base", "safetensors"))


def make(name: str) -> Subject:
    architecture, settings, _ = ENCODERS[name]
    named = {"name": architecture} if "/" in architecture else {}
    config = plugins.config("clctl.encoders", architecture)(**named, **settings)
    with seeded(0, "test", name):
        encoder = config.build(SIZE)
        for p in encoder.parameters():
            if p.dim() == 1:
                nn.init.normal_(p, p.mean().item(), 0.1)
    facts = {**settings, **config.facts(SIZE)}
    about = {"schema": "clctl/model/1", "evaluated": "encoder", "recipe": {"name": "é"}, "step": 7}
    return Subject(name, architecture, facts, encoder.eval(), SIZE, MEAN, STD, about)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    """Subject and artefact of an encoder and a target, written once."""
    return writer(make, tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_the_other_side_computes_the_same(written: Written, name: str, target: str):
    subject, path = written(name, target)
    with torch.inference_mode():
        features = subject.encoder(noise(5))
    scale = features.abs().max().item()
    assert features.std(dim=0).max() > 1e-3
    tolerance = 1e-4 if target == "onnx" else 1e-5
    assert _subject.verify(target, path, subject, noise(5)) < tolerance * max(1, scale)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_a_target_cannot_carry_is_refused_with_those_that_can(name: str, tmp_path: Path):
    subject, able = make(name), ENCODERS[name][2]
    assert _subject.possible(subject) == able
    for target in {*ALL, "torchvision"} - {*able}:
        with pytest.raises(Problem) as caught:
            _folder.write(target, subject, tmp_path / "new")
        problem = caught.value
        assert (problem.exit, problem.code) == (Exit.USAGE, "export.no-such-encoder")
        assert subject.architecture in problem.message
        assert ("group norm" in problem.message) == (name == "group18")
        assert problem.suggestion == " or ".join(f"--to {other}" for other in able)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "architecture", "arguments"),
    [
        ("cls", "vit_tiny_patch16_224", {"patch_size": 8, "global_pool": "token"}),
        ("mean", "vit_small_patch16_224", {"patch_size": 4, "global_pool": "avg"}),
        ("timms-vit", "vit_tiny_patch16_224", {}),
        ("convnext", "convnext_atto", None),
    ],
)
def test_timm_is_told_what_to_build(written: Written, name: str, architecture: str, arguments):
    subject, path = written(name, "timm")
    told = json.loads((path / "config.json").read_text("utf-8"))
    assert told["architecture"] == architecture
    if arguments is None:
        assert told["model_args"] == {}
    else:
        assert told["model_args"].items() >= {"img_size": SIZE, **arguments}.items()
    state = load_file(path / "model.safetensors")
    assert list(state) == sorted(subject.encoder.state_dict())
    model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=10).eval()
    assert [*timm.data.resolve_model_data_config(model)["input_size"]] == [3, SIZE, SIZE]
    with torch.inference_mode():
        assert model(noise(2)).shape == (2, 10)
        ours = subject.encoder(noise(2))
        features = model.forward_head(model.forward_features(noise(2)), pre_logits=True)
        torch.testing.assert_close(features, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["cls", "convnext"])
def test_every_file_of_weights_is_a_checkpoint_reference(written: Written, name: str):
    for target in ("safetensors", "timm"):
        subject, path = written(name, target)
        found = reference.find(str(path))
        prefix = "encoder." if target == "safetensors" else ""
        assert found.about["evaluated"] == prefix.strip(".")
        state = load_file(found.model)
        assert set(state) == {prefix + key for key in subject.encoder.state_dict()}


def test_the_printed_lines_give_the_features_of_a_picture(written: Written, tmp_path: Path):
    pixels = torch.randint(
        256, (40, 40, 3), generator=generator(0, "picture"), dtype=torch.uint8
    ).numpy()
    Image.fromarray(pixels).save(tmp_path / "picture.jpg", quality=95)
    pairs = [("mean", "safetensors"), ("convnext", "safetensors"), ("cls", "timm")]
    lines = ["import numpy"]
    for i, (name, target) in enumerate(pairs):
        subject, path = written(name, target)
        lines += [pasted(target, subject, path)]
        lines += [f"numpy.savez('{i}.npz', features=features, x=x)"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    for i, (name, target) in enumerate(pairs):
        found = np.load(tmp_path / f"{i}.npz")
        with torch.inference_mode():
            wanted = written(name, target)[0].encoder(torch.from_numpy(found["x"])).numpy()
        np.testing.assert_allclose(found["features"], wanted, atol=1e-4 * np.abs(wanted).max())
