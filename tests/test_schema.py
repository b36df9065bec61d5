"""The JSON Schema of a recipe, judged by the jsonschema library against the reader itself."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from clctl.recipe.nodes import load, parse
from clctl.recipe.plugins import config, known
from clctl.recipe.read import packaged, validated
from clctl.recipe.schema import schema

DRAFTS = (Draft202012Validator, Draft7Validator)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return schema()


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return load(packaged()["byol"], "byol")[0].plain() | {"name": "byol"}


def changed(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The recipe with another value at a dotted path; ... takes the key away."""
    whole = copy.deepcopy(recipe)
    *above, key = path.split(".")
    at: Any = whole
    for part in above:
        at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return whole


def read(recipe: dict[str, Any]) -> list[str]:
    """What the reader says is wrong."""
    tree, _ = parse(json.dumps(recipe), "recipe.json")
    return [problem.message for problem in validated(tree)[1]]


@pytest.mark.parametrize("draft", DRAFTS)
def test_it_is_a_schema_of_both_drafts(made, draft):
    draft.check_schema(made)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_pass(made, name, draft):
    tree, problems = load(packaged()[name], name)
    assert not problems
    wrong = [f"{e.json_path}: {e.message}" for e in draft(made).iter_errors(tree.plain())]
    assert wrong == []


MISTAKES = [
    ("method.name", "byool", "$.method.name"),
    ("method.name", ..., "$.method"),
    ("method.temperature", 0.1, "$.method"),  # another method's key
    ("method", "byol", "$.method"),
    ("optimizer.name", "adam", "$.optimizer.name"),
    ("optimizer.name", ..., "$.optimizer"),
    ("optimizer.eta", 0.1, "$.optimizer"),
    ("optimizer.lr", "fast", "$.optimizer.lr"),
    ("optimizer.lr", 0, "$.optimizer.lr"),
    ("encoder.name", "resnet51", "$.encoder.name"),
    ("encoder.name", "timm/", "$.encoder.name"),
    ("data.name", "cifar", "$.data.name"),
    ("data.path", "photos", "$.data"),  # digits have none
    ("train.epochs", "ten", "$.train.epochs"),
    ("train.epochs", 1.5, "$.train.epochs"),
    ("train.epochs", True, "$.train.epochs"),
    ("train.batch_size", 1, "$.train.batch_size"),
    ("train.precision", "fp16", "$.train.precision"),
    ("train.epoch", 10, "$.train"),
    ("views.groups", [], "$.views.groups"),
    ("views.groups.0.crop.scale", [0.2], "$.views.groups[0].crop"),
    ("views.groups.0.crop.scale", [0.2, 1.0, 1.0], "$.views.groups[0].crop"),
    ("views.groups.0.hflip", 2, "$.views.groups[0].hflip"),
    ("views", ..., "$"),
    ("trian", {}, "$"),
    ("name", "a b", "$.name"),
]


@pytest.mark.parametrize(("path", "value", "place"), MISTAKES)
def test_mistakes_are_seen_where_they_are(made, recipe, path, value, place):
    wrong = changed(recipe, path, value)
    assert read(wrong)  # else it would be no mistake
    for draft in DRAFTS:
        assert {e.json_path for e in draft(made).iter_errors(wrong)} == {place}


RIGHT = [
    ("name", ...),
    ("encoder", {"name": "timm/convnext_atto"}),
    ("method.predictor", None),
    ("train.precision", "bf16"),
    ("optimizer", {"name": "adamw", "lr": 1}),
    ("checkpoint.every_steps", None),
    ("views.groups.0.blur", {}),
]


@pytest.mark.parametrize(("path", "value"), RIGHT)
def test_what_the_reader_takes_passes(made, recipe, path, value):
    right = changed(recipe, path, value)
    assert read(right | {"name": "any"}) == []
    for draft in DRAFTS:
        assert list(draft(made).iter_errors(right)) == []


@pytest.mark.parametrize("key", ["data.sources", "encoders", "methods"])
def test_every_module_of_a_folder_is_offered_with_a_line(made, key):
    section = {"data.sources": "data", "encoders": "encoder", "methods": "method"}[key]
    offered = made["properties"][section]["properties"]["name"]["anyOf"]
    names = {o.get("const", "timm") for o in offered}
    assert names == set(known(f"clctl.{key}"))
    assert all(len(o["description"]) > 20 for o in offered)


def test_keys_have_the_words_of_their_docstring_and_their_default(made):
    section = made["$defs"]["clctl__methods__nnclr__Config"]
    keys = section["properties"]
    assert section["description"].startswith("NNCLR: the positive is the nearest neighbour")
    assert keys["projector"]["description"] == "widths of its layers, output last"
    assert keys["predictor"]["description"] == "its hidden width."
    assert keys["temperature"]["default"] == config("clctl.methods", "nnclr")().temperature
    assert made["$defs"]["Views"]["properties"]["std"]["description"].startswith("normalisation")
    inherited = made["$defs"]["clctl__methods__moco_v2__Config"]["properties"]["bn_groups"]
    assert inherited["description"].startswith("parts of the batch")


def test_the_command_prints_or_writes_it(clctl, made, tmp_path: Path):
    assert clctl("schema").document == made
    assert clctl("schema", "--json").document == {
        "schema": "clctl/schema/1",
        "path": None,
        "recipe": made,
    }
    out = tmp_path / "new" / "recipe.schema.json"
    answer = clctl("schema", "-o", out)
    assert json.loads(out.read_text("utf-8")) == made
    assert f"# yaml-language-server: $schema={out}" in answer.out
    assert clctl("schema", "-o", out, "-q").out == f"{out}\n"


def test_a_place_that_cannot_be_written_is_told(clctl, tmp_path: Path):
    (tmp_path / "file").write_text("")
    answer = clctl("schema", "-o", tmp_path / "file" / "s.json")
    assert answer.code == 8
    assert "cannot be written" in answer.err
