"""Recipes: what is accepted, what each mistake is told as, and what makes two of them the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standin.recipe import GOOD, Recipe

from clctl.console import Exit, Problem
from clctl.recipe import read as reader
from clctl.recipe.identity import differences, digest, resolved, weights_part
from clctl.recipe.plugins import config, known, summary
from clctl.recipe.read import find, packaged, read


@pytest.fixture(autouse=True)
def _standins(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "Recipe", Recipe)
    monkeypatch.chdir(tmp_path)


def take(text=GOOD, *overrides, data=None) -> Any:
    Path("r.yaml").write_text(text, encoding="utf-8")
    return read(Path("r.yaml"), overrides, data)


def mistakes(text=GOOD, *overrides, data=None) -> list[Any]:
    with pytest.raises(Problem) as caught:
        take(text, *overrides, data=data)
    first = caught.value
    problems = [first, *first.others]
    assert all(p.exit == Exit.RECIPE and p.code.startswith("recipe.") for p in problems)
    return problems


def change(**edits):
    """GOOD with some words exchanged; an underscore at an end keeps the keyword a plain word."""
    text = GOOD
    for old, new in edits.items():
        assert old.strip("_") in text
        text = text.replace(old.strip("_"), new)
    return text


def test_a_good_recipe_is_typed_and_complete(tmp_path):
    recipe = take()
    assert recipe.name == "r"
    assert recipe.data.path == tmp_path / "pictures"
    assert (recipe.encoder.stem, recipe.method.momentum) == ("auto", 0.9)
    assert recipe.views.groups[0].crop.scale == (0.5, 1.0)
    assert type(recipe.views.groups[0].crop.scale[1]) is float
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("lars", 1e-3)
    assert recipe.train.batch_size == 256


# Edit of GOOD -> line, column, width, code, words of the message, words of the suggestion.
ONE = [
    (("epochs", "epohcs"), (14, 3, 6), "unknown-key", "`epohcs` in `train`", "mean `epochs`?"),
    (("momentum", "mometum"), (7, 3, 7), "unknown-key", "in `method`", "mean `momentum`?"),
    (("crop:", "corp:"), (12, 7, 4), "unknown-key", "in `views.groups[0]`", "mean `crop`?"),
    (("ratio", "ration"), (12, 31, 6), "unknown-key", "`views.groups[0].crop`", "`ratio`?"),
    (("{name: small}", "{name: small, stm: auto}"), (4, 24, 3), "unknown-key", "`encoder`", "`stem`?"),
    (("lr: 1e-3", "lr: 1\n  bettas: 2"), (18, 3, 6), "unknown-key", "`bettas`", "known here: clip"),
    (("lr: 1e-3", "lrr: 1e-3"), (17, 3, 3), "unknown-key", "`lrr` in `optimizer`", "mean `lr`?"),
    (("train:", "trian:"), (13, 1, 5), "unknown-key", "unknown section `trian`", "mean `train`?"),
    (("method:", "metod:"), (5, 1, 5), "unknown-key", "`metod`", "mean `method`?"),
    (("byol", "boyl"), (6, 9, 4), "unknown-name", "no method named `boyl`", "mean `byol`?"),
    (("byol", "_shared"), (6, 9, 7), "unknown-name", "no method named", "known here: byol, simclr"),
    (("byol", "7"), (6, 9, 1), "unknown-name", "no method named `7`", "known here: byol, simclr"),
    (("small", "resnet"), (4, 17, 6), "unknown-name", "no encoder named", "known here: small"),
    (("folder", "foldr"), (3, 14, 5), "unknown-name", "no data named `foldr`", "mean `folder`?"),
    (("lars", "larrs"), (16, 9, 5), "unknown-name", "no optimizer named", "mean `lars`?"),
    (("name: lars", "clip: true"), (15, 1, 9), "missing-key", "`optimizer` lacks", "adamw, lars, sgd"),
    (("{name: small}", "{stem: auto}"), (4, 1, 7), "missing-key", "`encoder` lacks", "known here: small"),
    (("  size: 16\n", ""), (8, 1, 5), "missing-key", "`views` lacks the required key `size`", "a whole number"),
    (("lr: 1e-3", "clip: true"), (15, 1, 9), "missing-key", "`optimizer` lacks", "`lr`: a number"),
    (("path: pictures", "side: 3"), (3, 1, 4), "missing-key", "`data` lacks", "`path`: a path"),
    (("encoder: {name: small}\n", ""), (None, None, 1), "missing-key", "recipe lacks the required key `encoder`", "add"),
    (("{name: small}", "small"), (4, 10, 5), "type", "`encoder` must be a section", "`encoder: {name: small}`"),
    (("{name: small}", ""), (4, 1, 7), "type", "must be a section, got nothing", "known here: small"),
    (("  name: lars\n  lr: 1e-3\n", ""), (15, 1, 9), "type", "`optimizer` must be a section", "adamw, lars, sgd"),
    (("epochs: 2", 'epochs: "2"'), (14, 11, 3), "type", 'must be a whole number, got "2"', "without quotes"),
    (("epochs: 2", "epochs: 010"), (14, 11, 3), "type", 'a whole number, got "010"', "needless zeros"),
    (("epochs: 2", "epochs: 2.0"), (14, 11, 3), "type", "a whole number, got 2.0", "`2`?"),
    (("epochs: 2", "epochs: 2.5"), (14, 11, 3), "type", "a whole number, got 2.5", None),
    (("epochs: 2", "epochs: true"), (14, 11, 4), "type", "a whole number, got true", None),
    (("epochs: 2", "epochs:"), (14, 3, 6), "type", "a whole number, got nothing", None),
    (("epochs: 2", "epochs: [2]"), (14, 11, 3), "type", "a whole number, got a list of 1", None),
    (("lr: 1e-3", "lr: true"), (17, 7, 4), "type", "`optimizer.lr` must be a number, got true", None),
    (("lr: 1e-3", "lr: 1\n  clip: on"), (18, 9, 2), "type", 'true or false, got "on"', "`true`?"),
    (("lr: 1e-3", "lr: 1\n  clip: 0"), (18, 9, 1), "type", "true or false, got 0", None),
    (("[0.5, 1]", "[0.5]"), (12, 21, 5), "type", "crop.scale` must be a list of 2 numbers, got a list of 1", None),
    (("[0.5, 1]", "[0.1, 0.5, 1]"), (12, 21, 13), "type", "list of 2 numbers, got a list of 3", None),
    (("[0.5, 1]", "0.5"), (12, 21, 3), "type", "list of 2 numbers, got 0.5", None),
    (("[0.5, 1]", "[0.5, x]"), (12, 27, 1), "type", "crop.scale[1]` must be a number", None),
    (("crop: {", "blur: 3\n      crop: {"), (12, 13, 1), "type", "`views.groups[0].blur` must be a section or null, got 3", None),
    (("  epochs: 2\n", ""), (13, 1, 5), "type", "`train` must be a section, got nothing", "or remove it"),
    (("epochs: 2", "precision: fp16"), (14, 14, 4), "type", "one of auto, fp32, bf16", "`bf16`?"),
    (("seed: 3", "name: 12"), (2, 7, 2), "type", "`name` must be text, got 12", 'quotes: "12"'),
    (("seed: 3", "seed: -1"), (2, 7, 2), "range", "`seed` must be at least 0, got -1", None),
    (("0.9", "1.5"), (7, 13, 3), "range", "`method.momentum` must be at most 1, got 1.5", None),
    (("1e-3", "0"), (17, 7, 1), "range", "`optimizer.lr` must be above 0, got 0", None),
    (("train:", "schedule: {warmup: 1}\ntrain:"), (13, 20, 1), "range", "must be below 1, got 1", None),
    (("groups:\n    - count: 2\n      crop: {scale: [0.5, 1], ratio: [1, 1]}", "groups: []"), (10, 11, 2), "range", "a list of at least 1, got a list of 0", None),
    (("[0.5, 1]", "[1, 0.5]"), (12, 7, 4), "value", "scale must be [low, high]", None),
    (("seed: 3", "name: a b"), (2, 7, 3), "value", "`name` must match", None),
    (("seed: 3", "seed: 3\nseed: 4"), (3, 1, 4), "duplicate-key", "first in line 2", "keep one"),
    (("1e-3", ".inf"), (17, 7, 4), "number", "numbers must be finite", None),
    (("seed: 3", "seed: *a"), (2, 7, 2), "alias", "`*a`", "write the value out"),
    (("epochs: 2", "epochs: !!str 2"), (14, 11, 7), "tag", "tags", "without its tag"),
    (("path: pictures", 'path: "\\ud800"'), (3, 28, 8), "text", "half a character", None),
    (("name: byol\n  momentum: 0.9", "name: simclr\n  temperature: 1\n  queue: 0.5"), (8, 10, 3), "type", "a whole number or `auto`", None),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "place", "code", "message", "suggestion"), ONE)
def test_one_mistake(edit, place, code, message, suggestion):
    assert edit[0] in GOOD
    (problem,) = mistakes(GOOD.replace(*edit))
    assert (problem.line, problem.column, problem.width) == place
    assert problem.code == f"recipe.{code}"
    assert message in problem.message
    assert suggestion is None or suggestion in problem.suggestion
    assert problem.file == "r.yaml"
    if problem.line is not None:
        assert problem.excerpt == GOOD.replace(*edit).splitlines()[problem.line - 1]


def test_all_mistakes_in_the_order_of_the_file_and_what_to_do_next():
    text = change(byol="boyl", epochs="epohcs", lars="larrs", seed="seeed")
    problems = mistakes(text, "train.precision=fast")
    assert [p.line for p in problems] == [2, 6, 14, 16, None]
    assert problems[-1].suggestion.endswith(
        "clctl validate r.yaml --set train.precision=fast   "
        "(mend these 5 errors; nothing was started)"
    )
    text = problems[0].text()
    assert text.count("error:") == 5
    assert "   6 |   name: boyl\n     |         ^^^^\n" in text


def test_more_mistakes_than_anybody_reads_are_counted():
    problems = mistakes(GOOD + "".join(f"k{i}: 1\n" for i in range(50)))
    assert len(problems) == 20
    assert "50 errors, of which 20 are shown" in problems[-1].suggestion


def test_label_stands_for_the_file():
    Path("r.yaml").write_text(GOOD + "x: 1\n", encoding="utf-8")
    with pytest.raises(Problem) as caught:
        read(Path("r.yaml"), label="byol")
    assert caught.value.file == "byol"


def test_overrides_apply_in_order_and_make_sections():
    recipe = take(
        GOOD, "train.epochs=5", "optimizer={name: sgd, lr: 2}", "optimizer.lr=1e-2",
        "schedule.warmup=0", "views.groups.0.crop.scale=[0.1, 0.2]", "views.groups.0.blur.sigma=[1, 2]",
        "views.groups.0.crop.ratio.1=2", "checkpoint.every_steps=null", "name=2026-11-23",
    )  # fmt: skip
    assert recipe.train.epochs == 5
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("sgd", 0.01)
    assert recipe.schedule.warmup == 0.0
    group = recipe.views.groups[0]
    assert (group.crop.scale, group.crop.ratio) == ((0.1, 0.2), (1.0, 2.0))
    assert (group.blur.sigma, group.blur.p) == ((1.0, 2.0), 0.5)
    assert recipe.name == "2026-11-23"


SETS = {
    "train.epohcs=3": ("unknown-key", "did you mean `epochs`?"),
    "trian.epochs=3": ("unknown-key", "did you mean `train`?"),
    "train.epochs=many": ("type", None),
    "train.epochs=": ("type", None),
    "optimizer.lr=-1": ("range", None),
    "method.name=boyl": ("unknown-name", "did you mean `byol`?"),
    "method=byol": ("type", "`method: {name: byol}`"),
    "method={name: simclr}": ("missing-key", "`temperature`: a number"),
    "views.groups.0.crop.scale=[1, 0.5]": ("value", None),
    "views.groups.1.count=2": ("set", "--set views.groups.0="),
    "views.groups.x=2": ("set", "--set views.groups.0="),
    f"views.groups.{'9' * 5000}=2": ("set", "--set views.groups.0="),
    "seed.x=1": ("set", "--set seed="),
    "seed": ("set", "--set train.epochs=10"),
    "=3": ("set", "--set train.epochs=10"),
    "train..epochs=3": ("set", "--set train.epochs=10"),
    "seed=\udc80": ("set", "--set train.epochs=10"),
    "seed=[1": ("yaml", None),
    "seed=*a": ("alias", None),
    "train={epochs: 1, epochs: 2}": ("duplicate-key", "keep one"),
    ".".join("a" * 40) + "=1": ("too-deep", None),
}


@pytest.mark.parametrize("override", SETS, ids=lambda text: text[:24].encode("ascii", "replace"))
def test_a_wrong_override_names_itself(override):
    (problem,) = mistakes(GOOD, override)
    code, suggestion = SETS[override]
    assert problem.code == f"recipe.{code}"
    assert (problem.file, problem.line) == (f"--set {override}", None)
    assert suggestion is None or suggestion in problem.suggestion


def test_an_override_can_mend_the_file():
    assert take(change(lars="larrs"), "optimizer.name=lars").optimizer.name == "lars"


def test_relative_data_path_counts_from_the_file_and_from_here_when_given_by_set(
    tmp_path, monkeypatch
):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "r.yaml").write_text(GOOD, encoding="utf-8")
    path = Path("deep/r.yaml")
    assert read(path).data.path == tmp_path / "deep" / "pictures"
    assert read(path, ["data.path=other"]).data.path == tmp_path / "other"
    assert read(path, ["data={name: arrays, path: x}"]).data.path == tmp_path / "x"
    assert read(path, ["data.path=/a/../b"]).data.path == Path("/a/../b")
    monkeypatch.setenv("HOME", "/home/me")
    assert read(path, ["data.path=~/x"]).data.path == Path("/home/me/x")
    assert read(path, data="~/x").data.path == Path("/home/me/x")
    monkeypatch.setattr(reader, "_packaged_folder", lambda: tmp_path / "deep")
    assert read(path).data.path == tmp_path / "pictures"


def test_data_names_a_source_or_a_path(tmp_path):
    for name in ("with-train", "digits"):
        (tmp_path / name).mkdir()
    (tmp_path / "with-train" / "train.npz").touch()
    sided = GOOD.replace("path: pictures", "path: pictures, side: 64")

    def section(data, *overrides):
        return take(sided, *overrides, data=data).data.model_dump()

    assert section("digits") == {"name": "digits"}
    assert section("./digits") == {"name": "folder", "path": tmp_path / "digits", "side": 64}
    assert section("none/here")["path"] == tmp_path / "none/here"
    for path in ("x.npz", "x.SafeTensors", "with-train"):
        assert section(path) == {"name": "arrays", "path": tmp_path / path, "side": 96}
    assert section("folder")["path"] == tmp_path / "pictures"
    assert section("x.npz", "data.side=32")["side"] == 32


def test_data_of_the_command_line_names_itself_and_replaces_what_is_wrong():
    (problem,) = mistakes(data="arrays")
    assert (problem.file, problem.code) == ("--data arrays", "recipe.missing-key")
    assert mistakes(data="")[0].code == "recipe.text"
    assert mistakes(data="\udc80")[0].code == "recipe.text"
    assert take(change(folder="nonsense"), data="x.npz").data.name == "arrays"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my recipe (2).yaml", "my-recipe-2-"),
        ("-x.yaml", "x"),
        ("日本.yaml", "recipe"),
        ("a.b.yml", "a.b"),
    ],
)
def test_name_defaults_to_the_file(file, name):
    Path(file).write_text(GOOD, encoding="utf-8")
    assert read(Path(file)).name == name


def test_resolved_is_complete_and_reads_back_as_the_same():
    recipe = take(GOOD, "views.groups.0.blur={}", "data.path=/p/é☃😀")
    document = resolved(recipe)
    assert document["data"] == {"name": "folder", "path": "/p/é☃😀", "side": 96}
    assert document["optimizer"]["weight_decay"] == 1e-6
    assert document["views"]["groups"][0]["blur"] == {"p": 0.5, "sigma": [0.1, 2.0], "kernel": None}
    for indent in (None, 2):
        Path("recipe.resolved.json").write_text(
            json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8"
        )
        again = read(Path("recipe.resolved.json"))
        assert again == recipe
        assert resolved(again) == document


SAME = ["name=other", "checkpoint.keep=9", "report.log_every=1", "data.path=/moved", "optimizer.lr=0.001", "train.batch_size=256"]  # fmt: skip
OTHER = ["seed=4", "train.epochs=3", "train.precision=fp32", "optimizer.lr=0.002", "data.side=32", "method.momentum=0.91", "views.groups.0.hflip=0.5", "encoder.stem=small", "schedule.final=0.1"]  # fmt: skip


def test_digest_covers_what_changes_weights_and_nothing_else():
    def of(*overrides, fingerprint="f", init=None):
        return digest(weights_part(take(GOOD, *overrides), fingerprint, init))

    assert len(of()) == 8
    assert int(of(), 16) >= 0
    assert {of(override) for override in SAME} == {of()}
    changed = [of(), *(of(o) for o in OTHER), of(fingerprint="g"), of(init="i")]
    assert len(set(changed)) == len(OTHER) + 3
    assert digest({"b": [1.5, None], "a": "é"}) == digest({"a": "é", "b": [1.5, None]})
    # sha256 of {"a":"\u00e9","b":[1.5,null]}: the digest names folders, so it must never change.
    assert digest({"a": "é", "b": [1.5, None]}) == "39ea84df"


def test_differences_name_each_value():
    old = weights_part(take(), "f", None)
    new = weights_part(
        take(GOOD, "train.epochs=9", "views.groups.0.crop.scale=[0.2, 1]", "method={name: simclr, temperature: 1}"),
        "g",
        "abc",
    )  # fmt: skip
    assert differences(old, old) == []
    assert differences(old, new) == [
        'data.fingerprint: "f" -> "g"',
        'init: null -> "abc"',
        "method.momentum: 0.9 -> absent",
        'method.name: "byol" -> "simclr"',
        'method.queue: absent -> "auto"',
        "method.temperature: absent -> 1.0",
        "train.epochs: 2 -> 9",
        "views.groups[0].crop.scale: [0.5, 1.0] -> [0.2, 1.0]",
    ]


def test_plugins_are_found_without_being_imported():
    assert list(known("standin.methods")) == ["byol", "simclr"]
    assert summary(known("standin.methods")["byol"]) == "Stand-in for a method with a momentum."
    assert summary(known("standin.methods")["byol"].with_name("_shared.py")) == ""
    assert config("standin.encoders", "small")().stem == "auto"
    assert known("standin.nothing") == {}
    with pytest.raises(ModuleNotFoundError, match="absent_package"):
        known("absent_package.methods")


def test_find(tmp_path, monkeypatch):
    recipes = tmp_path / "shipped"
    (recipes / "cifar10").mkdir(parents=True)
    for name in ("byol", "simclr", "cifar10/byol"):
        (recipes / f"{name}.yaml").write_text(GOOD, encoding="utf-8")
    monkeypatch.setattr(reader, "_packaged_folder", lambda: recipes)
    assert list(packaged()) == ["byol", "cifar10/byol", "simclr"]
    for reference in ("byol", "byol.yaml", "byol.yml"):
        assert find(reference) == recipes / "byol.yaml"
    assert find("cifar10/byol") == recipes / "cifar10" / "byol.yaml"
    Path("byol.yaml").touch()
    assert find("byol.yaml") == Path("byol.yaml")
    Path("simclr").mkdir()
    assert find("simclr") == recipes / "simclr.yaml"
    for reference, near in {"boyl": "`byol`", "recipes/simclr.yaml": "`simclr`", "digits-simclr": "`simclr`", "BYOL_on-CIFAR10": "`cifar10/byol`", "x" * 5000: "packaged: byol"}.items():  # fmt: skip
        with pytest.raises(Problem) as caught:
            find(reference)
        assert (caught.value.code, caught.value.exit) == ("recipe.not-found", Exit.RECIPE)
        assert reference in caught.value.message
        assert near in str(caught.value.suggestion)
    with pytest.raises(Problem, match="is a folder"):
        find(".")


def test_the_reader_loads_no_torch():
    code = "import sys, clctl.recipe.read, clctl.recipe.identity; sys.exit('torch' in sys.modules)"
    root = Path(reader.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
