"""clctl init: a recipe that a run takes, for the data that it was made for, and never over a file."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import photographs
from PIL import Image

from clctl.commands import _recommended
from clctl.commands._recommended import GPU, PROCESSOR, recommended
from clctl.commands._surveyed import Surveyed, surveyed
from clctl.console import Talk
from clctl.data.survey import of_pixels
from clctl.recipe.read import read
from clctl.recipe.schema import schema


def of_size(height: int, width: int, count: int, pooled: bool = False) -> Surveyed:
    look = of_pixels(np.zeros((height, width, 3), np.uint8))
    return Surveyed(
        *(None, "set", ["x"] * count, ["train"] * count, [None] * count),
        *(("a", "b") if pooled else None, "", [], {}, [look] * count, lambda row: None),
    )


@pytest.mark.parametrize(
    ("height", "width", "processor", "gpu"),
    [
        (8, 8, 16, 16),
        (28, 28, 32, 32),
        (32, 32, 32, 32),
        (64, 64, 64, 64),
        (96, 400, 64, 96),
        (1000, 200, 64, 224),
        (4000, 3000, 64, 224),
    ],
)
def test_views_are_about_as_large_as_the_pictures(height, width, processor, gpu):
    found = of_size(height, width, 10)
    assert recommended(found, PROCESSOR)["views.size"].value == processor
    assert recommended(found, GPU)["views.size"].value == gpu


@pytest.mark.parametrize("machine", [PROCESSOR, GPU], ids=lambda machine: machine.name)
@pytest.mark.parametrize("count", [2, 3, 9, 40, 1000, 30_000])
@pytest.mark.parametrize("pooled", [False, True])
def test_an_epoch_has_steps_and_the_run_an_end(machine, count, pooled):
    choices = recommended(of_size(32, 32, count, pooled), machine)
    batch, epochs = choices["train.batch_size"].value, choices["train.epochs"].value
    train = max(2, count * 4 // 5) if pooled else count
    assert 2 <= batch <= min(train, machine.batch_size)
    assert math.log2(batch).is_integer()
    assert machine.epochs[0] <= epochs <= machine.epochs[1]
    if count == 30_000:
        assert batch == machine.batch_size
        assert epochs * (train // batch) == pytest.approx(machine.steps, rel=0.3)


def test_stem_and_encoder_suit_the_machine_and_the_views():
    def encoder(side: int, count: int) -> tuple[str, str]:
        choices = recommended(of_size(side, side, count), GPU)
        return choices["encoder.name"].value, choices["encoder.stem"].value

    assert encoder(32, 100) == ("resnet18", "small")
    assert encoder(200, 100) == ("resnet18", "imagenet")
    assert encoder(200, 60_000) == ("resnet50", "imagenet")
    choices = recommended(of_size(200, 200, 100), PROCESSOR)
    assert choices["encoder.name"].value == "resnet_small"
    assert "encoder.stem" not in choices


def test_the_recipe_is_valid_and_means_the_folder(clctl, tmp_path):
    for name in ("a", "b"):
        photographs(tmp_path / "photos" / name, 20, seed=ord(name))
    mine = tmp_path / "photos" / "mine.yaml"
    answer = clctl("init", tmp_path / "photos", "-o", mine, "--json")
    assert (answer.code, answer.document["schema"]) == (0, "clctl/init/1")
    assert clctl("validate", mine, "-q").out == "ok\n"
    recipe = read(mine)
    assert Path(recipe.data.path).resolve() == tmp_path / "photos"
    assert 'path: "."' in mine.read_text()
    chosen = {key: each["value"] for key, each in answer.document["recommended"].items()}
    assert recipe.views.size == chosen["views.size"] == 32
    assert recipe.train.batch_size == chosen["train.batch_size"] == 8
    assert recipe.views.groups[0].hflip == 0
    assert recipe.views.groups[0].jitter is not None
    assert recipe.views.groups[0].jitter.hue == 0.1


def test_the_first_line_points_to_the_schema_beside(clctl, tmp_path, monkeypatch):
    photographs(tmp_path / "photos", 4)
    monkeypatch.chdir(tmp_path / "photos")
    assert clctl("init", "-o", "new/mine.yml", "-q").out == "new/mine.yml\n"
    first = Path("new/mine.yml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=recipe.schema.json"
    assert json.loads(Path("new/recipe.schema.json").read_text()) == schema()
    Path("new/recipe.schema.json").write_text("{}")
    assert clctl("init", "-o", "new/other.yaml").code == 0
    assert Path("new/recipe.schema.json").read_text() == "{}"


def test_a_run_takes_the_recipe(clctl, tmp_path):
    photographs(tmp_path / "photos", 16, size=(16, 16))
    clctl("init", tmp_path / "photos", "-o", tmp_path / "mine.yaml")
    short = ("--set", "train.epochs=1", "--set", "train.precision=fp32")
    done = clctl("pretrain", tmp_path / "mine.yaml", *short, "-o", tmp_path / "run", "--json")
    assert (done.code, done.document["steps"]) == (0, 2)


def test_grey_pictures_get_no_change_of_colour(clctl, tmp_path):
    photographs(tmp_path / "photos", 6)
    for path in (tmp_path / "photos").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    clctl("init", tmp_path / "photos", "-o", tmp_path / "mine.yaml")
    (group,) = read(tmp_path / "mine.yaml").views.groups
    assert group.jitter is not None
    assert (group.jitter.saturation, group.jitter.hue, group.grayscale) == (0, 0, 0)


def test_bad_pictures_are_skipped_where_they_are_few(clctl, tmp_path):
    photographs(tmp_path / "photos", 30, size=(16, 16))
    (tmp_path / "photos/000.png").write_bytes(b"1")
    clctl("init", tmp_path / "photos", "-o", tmp_path / "few.yaml")
    assert read(tmp_path / "few.yaml").data.bad_images == "skip"
    for i in range(5):
        (tmp_path / f"photos/{i:03d}.png").write_bytes(b"1")
    clctl("init", tmp_path / "photos", "-o", tmp_path / "many.yaml")
    assert read(tmp_path / "many.yaml").data.bad_images == "stop"
    assert "5 cannot be decoded" in (tmp_path / "many.yaml").read_text()


@pytest.mark.parametrize("name", ['it\'s: #1 "best"', "ünï code", "- a\\b", "{x}", "a\nseed: 7"])
def test_any_name_of_a_folder_can_stand_in_it(clctl, tmp_path, name):
    photographs(tmp_path / name, 3, size=(16, 16))
    assert clctl("init", tmp_path / name, "-o", tmp_path / "mine.yaml").code == 0
    recipe = read(tmp_path / "mine.yaml")
    assert (Path(recipe.data.path).resolve(), recipe.seed) == (tmp_path / name, 0)


def test_a_name_that_is_no_text_is_refused(clctl, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)
    photographs(Path(folder) / "d", 2, size=(16, 16))
    answer = clctl("init", folder, "-o", tmp_path / "mine.yaml")
    assert (answer.code != 0, "UTF-8" in answer.err) == (True, True)
    assert not (tmp_path / "mine.yaml").exists()


def test_arrays_and_named_sources(clctl, tmp_path):
    np.savez(
        tmp_path / "set.npz",
        images=np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), np.uint8),
    )
    assert clctl("init", tmp_path / "set.npz", "-o", tmp_path / "mine.yaml").code == 0
    assert read(tmp_path / "mine.yaml").data.name == "arrays"
    assert clctl("init", "digits", "-o", tmp_path / "digits.yaml").code == 0
    assert read(tmp_path / "digits.yaml").data.name == "digits"
    assert clctl("validate", tmp_path / "mine.yaml", tmp_path / "digits.yaml").code == 0


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_exists_is_never_written_over(clctl, tmp_path, what):
    photographs(tmp_path / "photos", 3)
    out = tmp_path / "mine.yaml"
    if what == "file":
        out.write_text("mine")
    elif what == "folder":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "nowhere")
    answer = clctl("init", tmp_path / "photos", "-o", out)
    assert answer.code == 6
    assert "mine-2.yaml" in answer.err
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "recipe.schema.json").exists()
    assert what != "file" or out.read_text() == "mine"


def test_refusals_write_nothing(clctl, tmp_path):
    assert clctl("init", tmp_path / "none", "-o", tmp_path / "mine.yaml").code == 4
    photographs(tmp_path / "photos", 3)
    answer = clctl("init", tmp_path / "photos", "-o", tmp_path / "mine.txt")
    assert (answer.code, "mine.yaml" in answer.err) == (2, True)
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_a_large_set_is_sampled_evenly(tmp_path):
    photographs(tmp_path / "d", 10, size=(16, 16))
    found = surveyed(str(tmp_path / "d"), Talk(quiet=True), most=4)
    assert sorted(found.looks) == [0, 3, 6, 9]
    assert _recommended._train(found) == 10
