"""What changed since a run began: data file by file, recipe, precision, versions, its own files."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from conftest import photographs

from clctl.commands import _setup
from clctl.commands._changed import FILES, RESOLVED
from clctl.store import checkpoint

TINY = ("encoder.width=8", "train.epochs=2", "train.batch_size=8", "report.log_every=1")
TINY += ("views.size=16", "checkpoint.every_steps=1", "guard.action=warn")
SETS = tuple(word for change in TINY for word in ("--set", change))


@pytest.fixture
def begun(tmp_path, clctl, monkeypatch):
    """A run on 24 pictures that stopped after its first step, in runs/ of the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        photographs(tmp_path / "photos" / name, 12, seed=len(name) + ord(name[0]))
    command = ("pretrain", "folder", "--data", "photos", *SETS)
    answer = clctl(*command, "--max-time", "0.001s", "--json")
    assert answer.code == 75, answer.err
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / FILES).exists()
    return command, Path("runs") / run.name


def change_pictures(photos: Path) -> None:
    (photos / "cat" / "000.png").unlink()
    shutil.copy(photos / "cat" / "001.png", photos / "dog" / "new.png")
    shutil.copy(photos / "cat" / "002.png", photos / "dog" / "003.png")


@pytest.mark.parametrize("how", ["by its recipe", "by its folder", "with --out"])
def test_changed_pictures_are_counted_and_the_run_is_left_alone(begun, clctl, tmp_path, how):
    command, run = begun
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    change_pictures(tmp_path / "photos")
    forms = {
        "by its recipe": command,
        "by its folder": ("pretrain", run),
        "with --out": (*command, "--out", run),
    }
    answer = clctl(*forms[how])
    assert answer.code == 6, answer.err
    assert "data: of 24 files: 1 added (dog/new.png), 1 removed (cat/000.png)" in answer.err
    assert "1 with other content (dog/003.png)" in answer.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert len(list(Path("runs").iterdir())) == 1
    pasted = answer.err.split("from its encoder: clctl ")[1].split()
    assert pasted[-1] == str(run)
    anew = clctl(*pasted, "--json")
    assert anew.code == 0, anew.err
    assert anew.document["resumed_from"] == 0
    assert json.loads((run / "run.json").read_text())["status"] == "stopped by --max-time"


def test_labels_that_changed_are_counted(begun, clctl):
    command, _ = begun
    Path("photos/dog/003.png").rename("photos/cat/103.png")
    answer = clctl(*command)
    assert (answer.code, "1 added (cat/103.png), 1 removed (dog/003.png)" in answer.err) == (
        6,
        True,
    )


def test_a_changed_recipe_is_refused_with_a_command_that_works(begun, clctl):
    command, run = begun
    answer = clctl(*command, "--set", "train.epochs=1", "--out", run)
    assert (answer.code, "train.epochs: 2 -> 1" in answer.err) == (6, True)
    pasted = answer.err.split("from its encoder: clctl ")[1].split()
    assert clctl(*pasted).code == 0
    wider = clctl(*command, "--set", "encoder.width=16", "--out", run)
    assert wider.code == 6
    assert "--init-from" not in wider.err  # its weights would not fit
    assert "--fresh" in wider.err


def test_what_does_not_change_weights_is_said_in_one_line(begun, clctl, monkeypatch):
    command, run = begun
    Path("photos").rename("moved")
    same = _setup.environment

    def upgraded(where):
        return {**same(where), "torch": "9.9"}

    for module in ("_announce", "_changed", "pretrain"):
        monkeypatch.setattr(f"clctl.commands.{module}._setup.environment", upgraded)
    again = [*command[:3], "moved", *command[4:], "--set", "checkpoint.keep=5", "--out", run]
    answer = clctl(*again)
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.err.splitlines() if "changed since step 1" in line]
    assert "-> 9.9" in line
    assert "checkpoint.keep 3 -> 5" in line
    assert 'data.path "photos" -> "moved"' in line.replace(str(Path.cwd()) + "/", "")
    assert "no longer equal bit for bit" in line


def test_precision_auto_stays_what_it_was_when_the_run_began(begun, clctl, monkeypatch):
    command, run = begun
    folder = checkpoint.newest(run, pytest.fail)
    assert folder is not None
    began = checkpoint.read(folder)["environment"]["precision"]
    other = {"fp32": True, "bf16": False}[began]
    monkeypatch.setattr(_setup, "_bf16_pays", lambda: other)
    answer = clctl(*command)
    assert answer.code == 0, answer.err
    assert f"precision {began}, as the run began" in answer.err
    folder = checkpoint.newest(run, pytest.fail)
    assert folder is not None
    assert checkpoint.read(folder)["environment"]["precision"] == began


def test_a_run_that_lost_run_json_is_known_by_its_checkpoint(begun, clctl):
    command, run = begun
    (run / "run.json").unlink()
    other = clctl(*command, "--set", "optimizer.lr=0.01", "--out", run)
    assert (other.code, "of another recipe or of other data" in other.err) == (6, True)
    answer = clctl(*command, "--out", run, "--json")
    assert (answer.code, answer.document["resumed_from"]) == (0, 1), answer.err


def test_lost_recipe_and_list_are_written_again(begun, clctl):
    command, run = begun
    kept = {name: (run / name).read_bytes() for name in (RESOLVED, FILES, "recipe.yaml")}
    (run / FILES).unlink()
    (run / "recipe.yaml").write_bytes(b"x")
    (run / RESOLVED).write_bytes(kept[RESOLVED].replace(b"16", b"17", 1))
    by_folder = clctl("pretrain", run)
    assert (by_folder.code, f"{RESOLVED} is damaged" in by_folder.err) == (5, True)
    assert f"--out {run} writes it again" in by_folder.err
    answer = clctl(*command)
    assert answer.code == 0, answer.err
    assert f"{FILES} is gone" in answer.err
    assert "recipe.yaml is damaged" in answer.err
    assert {name: (run / name).read_bytes() for name in kept} == kept


def test_the_list_of_files_is_compact_and_the_same_each_time(tmp_path):
    import torch

    from clctl.commands._listing import listing
    from clctl.images import DataSet, Images, Split

    count = 20_000
    ids = [f"n{i // 1300:08d}/n{i // 1300:08d}_{i}.JPEG" for i in range(count)]
    digests = bytes(torch.randint(0, 256, (8 * count,), dtype=torch.uint8).tolist())
    empty = Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.long))
    labels = torch.arange(count) // 1300
    split = Split("train", empty, labels, ids)
    classes = tuple(f"n{i:08d}" for i in range(16))
    made = DataSet("x", {"train": split}, classes, "0", "", contents={"train": (ids, digests)})
    listed = listing(made)
    assert listed is not None
    assert listed == listing(made)
    assert len(listed) < 20 * count  # 1.3 million files in less than 26 MB
    lines = gzip.decompress(listed).decode().splitlines()
    assert json.loads(lines[-1]) == ["train", ids[-1], digests[-8:].hex(), classes[-1]]
