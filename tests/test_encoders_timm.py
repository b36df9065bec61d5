"""timm's models as encoders."""

import sys

import pytest
import timm
import torch
from torch import nn

from clctl.console import Exit, Problem
from clctl.encoders.timm import Config
from clctl.recipe.plugins import known, module, summary
from clctl.recipe.read import find, read
from clctl.recipe.saved import from_resolved
from clctl.rng import generator, seeded


@pytest.mark.parametrize(
    ("name", "size", "fixed"),
    [
        ("resnet10t", 32, False),
        ("vit_tiny_patch16_224", 32, True),
        ("mobilenetv3_small_050", 48, False),
    ],
)
def test_a_model_is_timms_own_without_classifier(name, size, fixed):
    config = Config(name=f"timm/{name}")
    with seeded(0, "timm"):
        encoder = config.build(size)
    arguments = {"img_size": size} if fixed else {}
    with seeded(0, "timm"):
        theirs = timm.create_model(name, num_classes=0, **arguments)
    assert config.facts(size) == {"timm": timm.__version__, **arguments}
    assert encoder.training
    for key, value in theirs.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value)
    assert list(encoder.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, size, size, generator=generator("timm"))
    with torch.no_grad():
        features = encoder.eval()(x)
        assert torch.equal(features, theirs.eval()(x))
    assert features.shape == (2, encoder.width)
    assert isinstance(encoder, nn.Module)


def problem(*overrides: str) -> Problem:
    with pytest.raises(Problem) as caught:
        read(find("simclr"), overrides)
    assert caught.value.exit == Exit.RECIPE
    assert not caught.value.others
    return caught.value


def test_a_recipe_names_it_behind_timm():
    recipe = read(find("simclr"), ["encoder={name: timm/resnet10t}"])
    assert recipe.encoder == Config(name="timm/resnet10t")
    assert from_resolved(recipe.model_dump(mode="json"), "saved").encoder == recipe.encoder
    assert (module("timm/resnet10t"), module("resnet18")) == ("timm", "resnet18")
    assert "timm/<name>" in summary(known("clctl.encoders")["timm"])


@pytest.mark.parametrize(
    ("name", "message", "suggestion"),
    [
        ("timm/convnext_ato", "has no model convnext_ato", "`timm/convnext_atto`"),
        ("timm/xyz123", "has no model xyz123", "timm.list_models()"),
        ("timm", "must match `^timm/", ""),
        ("timm/hf-hub:timm/resnet18", "must match `^timm/", ""),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "must match `^timm/", ""),
        ("tim/x", "no encoder named `tim/x`", "`timm`"),
        ("resnet18/timm", "must be `resnet18`", "`resnet18`"),
    ],
)
def test_names_that_are_none_are_told(name, message, suggestion):
    found = problem(f'encoder={{name: "{name}"}}')
    assert message in found.message
    assert suggestion in str(found.suggestion)
    assert found.file is not None


def test_a_model_of_one_size_takes_no_small_crops():
    vit = "encoder={name: timm/vit_tiny_patch16_224}"
    found = problem(vit, "views.size=32", "views.groups.0.size=16")
    assert found.file == "--set views.groups.0.size=16"
    assert "32 and 16 pixels" in found.message
    read(find("simclr"), [vit, "views.size=32", "views.groups.0.size=32"])
    read(find("simclr"), ["encoder={name: timm/resnet10t}", "views.groups.0.size=32"])


def test_a_model_that_cannot_see_such_views_is_told():
    with pytest.raises(Problem, match=r"convnext_atto cannot .* 16 pixels: .*ernel size") as caught:
        Config(name="timm/convnext_atto").build(16)
    assert (caught.value.exit, caught.value.code) == (Exit.RECIPE, "encoder.unfit")


def test_without_timm_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    recipe = read(find("simclr"), ["encoder={name: timm/resnet10t}"])
    with pytest.raises(Problem, match="needs timm, which is not installed") as caught:
        recipe.encoder.build(32)
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "encoder.missing-extra")
    assert caught.value.suggestion == "pip install 'clctl[timm]'"
