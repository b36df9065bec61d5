"""The recipes and the plugins that come with clctl."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from clctl.console import Problem
from clctl.recipe.identity import digest, resolved, weights_part
from clctl.recipe.plugins import config, known, summary
from clctl.recipe.read import find, packaged, read

ROOT = Path(__file__).parents[1]
PACKAGES = ["clctl.methods", "clctl.encoders", "clctl.data.sources"]
PLUGINS = [(package, name) for package in PACKAGES for name in known(package)]
BENCHMARKS = [name for name in packaged() if name.startswith(("cifar10/", "imagenet/", "small/"))]


def test_the_promised_ones_are_there():
    assert {"byol", "simclr", "folder", "cifar10/byol", "cifar10/simclr"} <= set(packaged())
    assert {"byol", "simclr"} <= set(known("clctl.methods"))
    assert {"resnet18", "resnet34", "resnet50", "resnet_small"} <= set(known("clctl.encoders"))
    assert {"digits", "arrays", "folder"} <= set(known("clctl.data.sources"))


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = find(name)
    assert path == packaged()[name]
    recipe = read(path)
    assert path.read_text("utf-8").startswith("#"), "a recipe opens with its card"
    document = resolved(recipe)
    Path("again.json").write_text(json.dumps(document), encoding="utf-8")
    assert read(Path("again.json")) == recipe
    assert len(digest(weights_part(recipe, "f", None))) == 8


@pytest.mark.parametrize("method", known("clctl.methods"))
@pytest.mark.parametrize("folder", ["", "cifar10/", "imagenet/", "small/"])
def test_every_method_has_its_recipes(folder, method):
    assert read(find(folder + method)).method.name == method


@pytest.mark.parametrize("name", BENCHMARKS)
def test_card_of_a_benchmark(name):
    """It says what was published and what was measured, so that no figure passes for another."""
    card = re.match(r"(#.*\n)+", packaged()[name].read_text("utf-8"))[0]
    assert f"\n#   clctl pretrain {name} --data PATH/" in card
    assert "published" in card
    assert "not measured here" in card or re.search(r"\b20\d\d-\d\d-\d\d\b", card)
    assert max(map(len, card.splitlines())) <= 100


@pytest.mark.parametrize(("package", "name"), PLUGINS)
def test_plugin(package, name):
    assert summary(known(package)[name]).endswith(".")
    field = config(package, name).model_fields["name"]
    pattern = next((m.pattern for m in field.metadata if hasattr(m, "pattern")), "")
    own = get_args(field.annotation) == (name,) or pattern.startswith(f"^{name}/")
    assert own, "a plugin is called as its file, or as what it opens: file/..."


def test_one_mistake_in_each_real_plugin_section():
    overrides = ["data.nmae=1", "encoder={name: resnet18, stme: auto}", "method.tempreature=1"]
    with pytest.raises(Problem) as caught:
        read(packaged()["simclr"], overrides)
    problems = [caught.value, *caught.value.others]
    assert [p.file for p in problems] == [f"--set {o}" for o in overrides]
    near = ["`name`", "`stem`", "`temperature`"]
    assert all(n in str(p.suggestion) for n, p in zip(near, problems, strict=True))


def test_listing_and_a_misspelt_name_load_no_torch(tmp_path):
    (tmp_path / "r.yaml").write_text("method: {name: boyl}\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clctl.console import Problem\n"
        "from clctl.recipe.plugins import known, summary\n"
        "from clctl.recipe.read import read\n"
        "print([summary(p) for p in known('clctl.methods').values()])\n"
        "try:\n    read(Path(sys.argv[1]))\n"
        "except Problem:\n    sys.exit('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.yaml")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
