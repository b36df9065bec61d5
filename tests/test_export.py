import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
import torch
import torchvision
from exporting import SIZE, Written, noise, pasted, writer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

from clctl.console import Exit, Problem
from clctl.export import _folder, _subject
from clctl.export._subject import Subject
from clctl.images import Images
from clctl.recipe import plugins
from clctl.rng import generator, seeded
from clctl.store import disk, reference
from clctl.views.apply import prepare

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALL = ["onnx", "safetensors", "timm", "torchvision"]
ENCODERS = {
    "resnet18": ("resnet18", {"stem": "imagenet"}, ALL),
    "resnet18-small": ("resnet18", {"stem": "small"}, ["onnx", "safetensors", "torchvision"]),
    "resnet34": ("resnet34", {"stem": "imagenet"}, ALL),
    "resnet50": ("resnet50", {"stem": "imagenet"}, ALL),
    "resnet_small": ("resnet_small", {"width": 8}, ["onnx", "safetensors"]),
}
PAIRS = [(name, target) for name, (_, _, able) in ENCODERS.items() for target in able]
PAIRS.remove(("resnet34", "onnx"))  # no node that ResNet-18 does not have, and seconds to trace


def make(name: str) -> Subject:
    architecture, settings, _ = ENCODERS[name]
    config = plugins.config("clctl.encoders", architecture)(**settings)
    with seeded(0, "test", name):
        encoder = config.build(SIZE)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.4, 0.8)
                nn.init.normal_(module.bias, std=0.1)
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    facts = {**settings, **config.facts(SIZE)}
    about = {"schema": "clctl/model/1", "evaluated": "teacher", "recipe": {"name": "é"}, "step": 7}
    return Subject(name, architecture, facts, encoder.eval(), SIZE, MEAN, STD, about)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    """Subject and artefact of an encoder and a target, written once."""
    return writer(make, tmp_path_factory.mktemp("exports"))


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_the_other_side_computes_the_same(written: Written, name: str, target: str):
    subject, path = written(name, target)
    tolerance = 1e-4 if target == "onnx" else 1e-5
    x = noise(5)
    with torch.inference_mode():
        scale = subject.encoder(x).abs().max().item()
    assert scale > 0.1
    assert _subject.verify(target, path, subject, x) < tolerance * max(1, scale)


@pytest.mark.parametrize("target", ALL)
def test_verify_sees_a_changed_weight_and_what_is_not_finite(written: Written, target: str):
    subject, path = written("resnet18", target)
    other = make("resnet18")
    other.encoder.get_buffer("bn1.running_mean").add_(0.5)
    assert _subject.verify(target, path, other, noise(2)) > 1e-3
    assert _subject.verify(target, path, subject, noise(2) * float("nan")) == float("inf")


@pytest.mark.parametrize("name", ENCODERS)
def test_refused_targets_name_the_reason_and_those_that_work(name: str, tmp_path: Path):
    subject, able = make(name), ENCODERS[name][2]
    assert _subject.possible(subject) == able
    for target in set(ALL) - set(able):
        with pytest.raises(Problem) as caught:
            _folder.write(target, subject, tmp_path / "new")
        problem = caught.value
        assert (problem.exit, problem.code) == (Exit.USAGE, "export.no-such-encoder")
        assert subject.architecture in problem.message
        assert problem.suggestion == " or ".join(f"--to {other}" for other in able)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_gets_the_nearest_name():
    assert _subject.targets() == ALL
    with pytest.raises(Problem) as caught:
        _subject.module("torchvison")
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "export.unknown-target")
    assert "did you mean `torchvision`?" in str(caught.value.suggestion)


@pytest.mark.parametrize("name", ["resnet18", "resnet18-small", "resnet50"])
def test_torchvision_misses_exactly_its_classifier(written: Written, name: str):
    subject, path = written(name, "torchvision")
    model = getattr(torchvision.models, subject.architecture)()
    if name == "resnet18-small":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    keys = model.load_state_dict(load_file(path / "model.safetensors"), strict=False)
    assert sorted(keys.missing_keys) == ["fc.bias", "fc.weight"]
    assert keys.unexpected_keys == []


def test_timm_knows_the_input_and_takes_another_classifier(written: Written):
    import timm
    from timm.data import resolve_model_data_config

    subject, path = written("resnet18", "timm")
    model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=10).eval()
    assert resolve_model_data_config(model) == {
        "input_size": [3, SIZE, SIZE],
        "interpolation": "bilinear",
        "mean": list(MEAN),
        "std": list(STD),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    with torch.inference_mode():
        x = noise(3)
        logits = model.get_submodule("fc")(subject.encoder(x))
        assert logits.shape == (3, 10)
        torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


def test_a_safetensors_export_is_a_checkpoint_reference(written: Written):
    subject, path = written("resnet_small", "safetensors")
    found = reference.find(str(path))
    assert found.about == {**subject.about, "evaluated": "encoder"}
    state = load_file(path / "model.safetensors")
    assert set(state) == {f"encoder.{key}" for key in subject.encoder.state_dict()}
    with safe_open(path / "model.safetensors", "pt") as file:
        preprocessing = json.loads(file.metadata()["preprocessing"])
    assert preprocessing["size"] == SIZE
    assert (tuple(preprocessing["mean"]), tuple(preprocessing["std"])) == (MEAN, STD)


def test_onnx_says_where_it_comes_from_and_holds_no_paths(written: Written):
    import onnx

    _, path = written("resnet_small", "onnx")
    model = onnx.load(path / "model.onnx", load_external_data=False)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["clctl"]["recipe"] == {"name": "é"}
    assert properties["preprocessing"]["size"] == SIZE
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["features"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b".py" not in (path / "model.onnx").read_bytes()


@pytest.mark.parametrize("target", ALL)
def test_an_own_export_is_silent_the_same_every_time_and_replaced(
    written: Written, target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    name = "resnet_small" if target == "onnx" else "resnet18"
    subject, first = written(name, target)
    path = _folder.write(target, subject, tmp_path)
    assert content(path) == content(first)
    changed = replace(subject, about={**subject.about, "step": 8})
    assert _folder.write(target, changed, tmp_path) == path
    assert content(path) != content(first)
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("taken_by", ["file", "more", "changed"])
@pytest.mark.parametrize("target", ["onnx", "timm"])
def test_what_clctl_did_not_write_stays(
    written: Written, target: str, taken_by: str, tmp_path: Path
):
    name = "resnet_small" if target == "onnx" else "resnet18"
    subject, path = written(name, target)
    taken = tmp_path / path.name
    if taken_by == "file":
        taken.write_bytes(b"mine")
    else:
        shutil.copytree(path, taken)
        place = taken / ("notes.txt" if taken_by == "more" else "README.md")
        place.write_bytes(b"mine")
    before = content(taken)
    with pytest.raises(Problem) as caught:
        _folder.write(target, subject, tmp_path)
    assert (caught.value.exit, caught.value.code) == (Exit.EXISTS, "export.exists")
    assert content(taken) == before
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize("failing", [1, 3, 5, 6, 7])
def test_a_disk_that_fails_leaves_the_earlier_timm_folder(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
):
    subject, _ = written("resnet18", "timm")
    path = _folder.write("timm", subject, tmp_path)
    before, calls = content(path), 0

    def rename(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(5, "Input/output error")
        os.replace(old, new)

    monkeypatch.setattr(disk.system, "rename", rename)
    changed = replace(subject, about={"step": 8})
    with pytest.raises(Problem) as caught:
        _folder.write("timm", changed, tmp_path)
    assert caught.value.exit == Exit.RESOURCES
    assert content(path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("target", "absent"), [("onnx", "onnxruntime"), ("timm", "timm")])
def test_a_missing_extra_is_told_with_the_line_that_installs_it(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, absent: str
):
    subject, path = written("resnet18", target)
    monkeypatch.setitem(sys.modules, absent, None)
    module = _subject.module(target)
    with pytest.raises(Problem) as caught:
        module.outputs(path, subject, noise(1))
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "export.missing-extra")
    assert caught.value.suggestion == f"pip install 'clctl[{target}]'"
    if target == "onnx":
        with pytest.raises(Problem, match=absent):
            _folder.write("onnx", subject, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_that_computes_something_else_is_not_written(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import onnx

    subject, path = written("resnet_small", "onnx")
    module = _subject.module("onnx")
    run = module._run

    def wrong_for_large_batches(session, x):
        return run(session, x) * (1.01 if len(x) == 17 else 1)

    monkeypatch.setattr(module, "_traced", lambda subject: onnx.load(path / "model.onnx"))
    assert content(_folder.write("onnx", subject, tmp_path)) == content(path)
    monkeypatch.setattr(module, "_run", wrong_for_large_batches)
    with pytest.raises(Problem, match="17 images") as caught:
        _folder.write("onnx", subject, tmp_path / "new")
    assert (caught.value.exit, caught.value.code) == (Exit.GATE, "export.differs")
    assert list((tmp_path / "new").iterdir()) == []


PASTES = [
    ("resnet18", "onnx"),
    ("resnet18", "torchvision"),
    ("resnet18-small", "torchvision"),
    ("resnet18", "timm"),
    ("resnet_small", "safetensors"),
]


def test_the_printed_lines_give_the_features_of_a_picture(written: Written, tmp_path: Path):
    pixels = generator(0, "picture")
    upright = Image.fromarray(
        torch.randint(256, (101, 66, 3), generator=pixels, dtype=torch.uint8).numpy()
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "it's.png", exif=exif)

    def script(numbers: list[int], absent: str) -> str:
        lines = ["import sys", "import numpy"]
        for i in numbers:
            name, target = PASTES[i]
            subject, path = written(name, target)
            text = pasted(target, subject, path).replace("picture.jpg", "it's.png")
            # Each in a function of its own, so that none lives on another's imports.
            lines += [f"def paste_{i}():", indent(text, "    "), "    return features, x"]
            lines += [f"features, x = paste_{i}()"]
            lines += [f"numpy.savez('{i}.npz', features=features, x=x)"]
            if target != "safetensors":
                lines += [f"assert {absent!r} not in sys.modules"]
        return "\n".join(lines)

    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for text in (script([0], "torch"), script([1, 2, 3, 4], "clctl")):
        command = [sys.executable, "-c", text]
        subprocess.run(command, cwd=tmp_path, env=env, check=True)

    square = (v2.CenterCrop(66), v2.Resize(SIZE), v2.ToImage())
    oracle = (*square, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD))
    x = v2.Compose(oracle)(upright)[None]
    for i, (name, target) in enumerate(PASTES):
        with torch.inference_mode():
            wanted = written(name, target)[0].encoder(x).numpy()
        found = np.load(tmp_path / f"{i}.npz")
        np.testing.assert_allclose(found["x"], x, atol=1e-6)
        tolerance = 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(found["features"], wanted, atol=tolerance, err_msg=target)

    canvas = v2.functional.pil_to_tensor(upright)[None]
    images = Images(canvas, torch.tensor([[101, 66]]))
    seen = prepare(images, SIZE, MEAN, STD)
    torch.testing.assert_close(x, seen, atol=1.01 / 255 / min(STD), rtol=0)  # one level of 255
