"""clctl sweep: runs, scores and one table of them; what goes on, what failed, rows from elsewhere."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import photographs
from sklearn.datasets import load_digits

from clctl.commands import _sweep_children, _sweep_row, _sweep_table
from clctl.commands._stop import Stop
from clctl.commands._sweep_children import Child, Ended, work
from clctl.commands._sweep_measure import passes
from clctl.commands._sweep_row import Row
from clctl.console import Problem
from clctl.evaluate.intervals import mean_over_seeds
from clctl.recipe.plugins import known
from clctl.recipe.read import packaged, read
from clctl.store.run import Run

SETS = ("train.epochs=1", "train.batch_size=16", "encoder.width=8", "views.size=8")
TINY = (*(word for text in SETS for word in ("--set", text)), "--device", "cpu")
PAIR = ("simclr", "simsiam")


class Here:
    """A command in this process, for a Child takes seconds to load torch."""

    calls: ClassVar[list[list[str]]] = []

    def __init__(self, arguments: list[str]) -> None:
        from clctl.__main__ import main

        self.calls.append(arguments)
        out, sys.stdout = sys.stdout, io.StringIO()
        try:
            main([*arguments, "--json"])
        except SystemExit as left:
            self.end = Ended(int(left.code or 0), json.loads(sys.stdout.getvalue()), False)
        finally:
            sys.stdout = out

    def ended(self) -> Ended:
        return self.end

    def stop(self) -> None:
        raise AssertionError("it has ended")


@pytest.fixture
def calls(monkeypatch):
    """What was run, from the start of the test."""
    monkeypatch.setattr(_sweep_children, "Child", Here)
    monkeypatch.setattr(Here, "calls", [])
    return Here.calls


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A few digits of three classes as a folder, and the options that take them."""
    folder = tmp_path_factory.mktemp("few") / "digits"
    folder.mkdir()
    images, labels = load_digits(return_X_y=True)
    kept = [images[labels == c][:16].reshape(-1, 8, 8) for c in range(3)]
    for part, rows in (("train", slice(0, 11)), ("test", slice(11, 16))):
        pixels = np.concatenate([digit[rows] for digit in kept])
        classes = np.repeat(np.arange(3), len(pixels) // 3)
        np.savez(folder / f"{part}.npz", images=(pixels * 15).astype(np.uint8), labels=classes)
    return (*TINY, "--data", str(folder))


@pytest.fixture(scope="module")
def swept(tmp_path_factory, few):
    """A finished sweep of two recipes with two seeds, and what was run; not to be changed."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep_children, "Child", Here)
        patch.setattr(Here, "calls", [])
        patch.setenv("CLCTL_CACHE", str(folder.parent / "cache"))
        document = Here(["sweep", *PAIR, *few, "--out", str(folder), "--quiet"]).end
        return folder, document, Here.calls


@pytest.fixture
def copied(swept, tmp_path):
    """The same, to be changed."""
    return Path(shutil.copytree(swept[0], tmp_path / "sweep"))


def some(**more: object) -> Row:
    facts = {"schema": _sweep_row.SCHEMA, "recipe": "a", "seed": 0, "state": "done", "digest": "d"}
    return Row.model_validate(facts | more)


def scored(top1: float) -> dict[str, object]:
    return {"top1": top1, "ci95": [top1 - 0.1, top1 + 0.1], "images": 100, "random_init": 0.2}


def test_every_run_is_trained_and_scored_by_three_protocols(swept):
    folder, ended, calls = swept
    assert ended.code == 0
    assert [call[0] for call in calls[1:]] == ["pretrain", "knn-eval", "linear-probe"] * 4
    document = ended.document
    assert document["schema"] == "clctl/sweep/1"
    assert document["remaining"] == document["failed"] == document["broken"] == []
    assert [(line["method"], line["seeds"]) for line in document["table"]] == [
        ("simclr", [0, 1]),
        ("simsiam", [0, 1]),
    ]
    for row in document["rows"]:
        run = folder / "runs" / f"{row['recipe']}-{row['seed']}"
        kept = {
            "knn": "knn-eval-digits-test-k20-t0.07",
            "knn_lightly": "knn-eval-digits-test-k200-t0.1",
            "linear": "linear-probe-digits-test-cached",
        }
        for column, name in kept.items():
            evaluation = json.loads((run / "evaluations" / f"{name}.json").read_text("utf-8"))
            assert row[column]["top1"] == evaluation["metrics"]["top1"]
            assert row[column]["ci95"] == evaluation["top1_ci95"]
        report = json.loads((run / "report.json").read_text("utf-8"))
        assert row["seconds"] == pytest.approx(report["seconds"])
        assert row["images_per_second"] == pytest.approx(report["images_per_second"])
        assert row["memory"] == report["memory"]
        assert (row["steps"], row["views"], row["passes"], row["year"]) == (2, 2, 2, 2020)


def test_the_files_say_the_same(swept):
    folder, ended, _ = swept
    assert json.loads((folder / "table.json").read_text("utf-8")) == ended.document
    head, _, *body = (folder / "table.md").read_text("utf-8").splitlines()
    assert head.startswith("| method |")
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        flat = list(csv.DictReader(file))
    for line, row, shown in zip(ended.document["table"], flat, body, strict=True):
        tops = line["knn"]["top1_by_seed"]
        assert line["knn"]["top1"] == pytest.approx(sum(tops) / 2)
        assert row["method"] == line["method"]
        assert float(row["knn_top1"]) == line["knn"]["top1"]
        assert [float(word) for word in row["knn_by_seed"].split()] == tops
        assert f"({tops[0]:.3f}, {tops[1]:.3f})" in shown


def test_a_second_call_runs_nothing_and_changes_no_byte(copied, calls, clctl, few):
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in copied.rglob("*") if p.is_file()}
    document = json.loads((copied / "table.json").read_text("utf-8"))
    document["folder"] = str(copied)
    answer = clctl("sweep", *PAIR, *few, "--out", copied, "--json")
    assert (answer.code, answer.document, calls) == (0, document, [])
    lock, table = copied / ".lock", copied / "table.json"  # these hold a process and a path
    told = table.read_bytes()
    again = clctl("sweep", *PAIR, *few, "--out", copied)
    assert (again.code, table.read_bytes()) == (0, told)
    for path in before.keys() - {lock, table}:
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before[path]


def test_what_is_scored_is_not_scored_again(copied, calls, clctl, few):
    (row,) = (copied / "rows").glob("simclr-1-*.json")
    whole = row.read_bytes()
    row.unlink()
    (evaluation,) = (copied / "runs/simclr-1/evaluations").glob("*-k200-t0.1.npz")
    evaluation.unlink()
    assert clctl("sweep", *PAIR, *few, "--out", copied).code == 0
    assert [call[0] for call in calls] == ["pretrain", "knn-eval"]
    assert row.read_bytes() == whole


def test_another_recipe_in_the_same_folder_is_refused_by_its_run(copied, calls, clctl, few):
    answer = clctl("sweep", "simclr", *few, "--set", "train.epochs=2", "--out", copied, "--json")
    assert answer.code == 1
    assert answer.document["failed"] == ["simclr-0", "simclr-1"]
    assert calls


def test_it_stops_in_time_and_goes_on(tmp_path, calls, clctl, few):
    command = ("sweep", "simclr", *few, "--seeds", "2", "--out", tmp_path / "s")
    stopped = clctl(*command, "--max-time", "0.05s", "--json")
    assert stopped.code == 75
    assert stopped.document["remaining"] == ["simclr-0", "simclr-1"]
    assert all("--max-time" in call for call in calls)
    done = clctl(*command, "--seeds", "1", "--json")
    assert (done.code, done.document["remaining"]) == (0, [])
    assert [row["state"] for row in done.document["rows"]] == ["done"]


def test_a_run_that_fails_is_a_row_and_the_others_go_on(copied, calls, clctl, tmp_path, few):
    text = packaged()["simclr"].read_text("utf-8")
    bad, wild = tmp_path / "bad.yaml", tmp_path / "a|b.yaml"
    bad.write_text(text.replace("temperature", "temprature"), "utf-8")
    wild.write_text(text + "\nguard: {patience: 1}\n", "utf-8")
    blown = ("--set", "optimizer={name: sgd, lr: 1e30}")
    command = ("sweep", "nowhere", bad, wild, *few, *blown, "--seeds", "1", "--out", copied)
    answer = clctl(*command, "--json")
    assert answer.code == 1
    assert answer.document["failed"] == ["nowhere-0", "bad-0", "a_b-0"]
    rows = {row["recipe"]: row for row in answer.document["rows"] if row["state"] == "failed"}
    assert (rows["nowhere"]["exit"], rows["bad"]["exit"], rows["a|b"]["exit"]) == (3, 3, 7)
    assert "temprature" in rows["bad"]["why"]
    assert sum(row["state"] == "done" for row in answer.document["rows"]) == 4
    calls.clear()
    assert clctl(*command).code == 1
    assert calls == []  # the same steps would not be finite again
    shown = (copied / "table.md").read_text("utf-8").splitlines()
    assert {line.replace("\\|", "").count("|") for line in shown} == {shown[0].count("|")}
    assert any("| a\\|b |" in line for line in shown)


def test_without_labels_there_is_a_row_without_scores(tmp_path, calls, clctl):
    photographs(tmp_path / "pictures", 20, (16, 16))
    command = ("sweep", "folder", *TINY, "--seeds", "1", "--set", "encoder.name=resnet_small")
    answer = clctl(*command, "--data", tmp_path / "pictures", "--out", tmp_path / "s", "--json")
    assert (answer.code, [call[0] for call in calls]) == (0, ["pretrain"])
    (row,) = answer.document["rows"]
    assert (row["state"], row["knn"], row["linear"]) == ("done", None, None)
    assert "no labels" in row["why"]
    assert row["rank_me"] > 1


def test_rows_of_another_machine_are_shown_and_broken_ones_named(copied, calls, clctl, few):
    (ours,) = (copied / "rows").glob("simclr-0-*.json")
    other = json.loads(ours.read_text("utf-8")) | {"hardware": "Another, 8 threads"}
    (copied / "rows/simclr-0-ffff0000.json").write_text(json.dumps(other), "utf-8")
    far = other | {"recipe": 'far "away", b|c', "digest": "0"}
    (copied / "rows/far-0-ffff0000.json").write_text(json.dumps(far), "utf-8")
    (copied / "rows/torn.json").write_text('{"schema": "clctl/sw', "utf-8")
    wrong = other | {"knn": scored(7.0)}
    (copied / "rows/wrong.json").write_text(json.dumps(wrong), "utf-8")
    shutil.rmtree(copied / "runs/simsiam-0")  # a row without its run is kept
    answer = clctl("sweep", *PAIR, *few, "--out", copied, "--json")
    assert (answer.code, calls) == (0, [])
    assert len(answer.document["rows"]) == 6
    assert [
        "torn.json" in answer.document["broken"][0],
        "wrong.json" in answer.document["broken"][1],
    ]
    assert len(answer.document["broken"]) == 2
    lines = [line for line in answer.document["table"] if line["recipe"] == "simclr"]
    assert sorted((len(line["seeds"]), line["hardware"][:7]) for line in lines)[0] == (1, "Another")
    with (copied / "table.csv").open(newline="", encoding="utf-8") as file:
        assert 'far "away", b|c' in {row["recipe"] for row in csv.DictReader(file)}


def test_report_and_compare_take_the_folder(swept, clctl, tmp_path):
    folder = swept[0]
    page = clctl("report", folder, "-o", tmp_path / "page.html", "--json")
    assert page.code == 0
    assert [Path(run).name for run in page.document["runs"]] == [
        f"{name}-{seed}" for name in PAIR for seed in (0, 1)
    ]
    models = clctl("compare", folder, "--device", "cpu", "--json").document
    assert len(models["models"]) == 4
    assert [d["over"] for d in models["differences"]] == ["images"] * 6 + ["seeds"]


def test_compare_leaves_out_what_is_not_done(copied, clctl):
    (copied / "runs/simclr-0/run.json").write_text('{"status": "stopped by SIGTERM"}', "utf-8")
    answer = clctl("compare", copied, "--device", "cpu", "--json")
    assert len(answer.document["models"]) == 3
    assert "left out  simclr-0: stopped" in answer.err
    shutil.rmtree(copied / "runs")
    answer = clctl("report", copied, "-o", copied / "page.html")
    assert answer.code == 5
    assert "is a sweep without a run" in answer.err


def test_two_sweeps_do_not_share_a_folder(copied, clctl):
    with Run(copied).lock():
        answer = clctl("sweep", "simclr", "--out", copied)
    assert answer.code == 6
    assert "is in use by process" in answer.err


def test_seeds_make_a_mean_and_the_wider_interval():
    tops = (0.5, 0.9)
    rows = [some(seed=seed, knn=scored(top), seconds=60.0 * seed) for seed, top in enumerate(tops)]
    (line,) = _sweep_table.lines(rows[::-1])
    _, low, high = mean_over_seeds(tops)
    assert line["knn"]["top1_by_seed"] == [0.5, 0.9]
    assert line["knn"]["interval_over"] == "seeds"
    assert line["knn"]["ci95"] == [max(0, low), min(1, high)]
    assert (line["seconds"], line["linear"]) == (30.0, None)
    (alone,) = _sweep_table.lines(rows[:1])
    assert alone["knn"]["ci95"] == [0.4, 0.6]


@pytest.mark.parametrize(
    "other", [{"hardware": "b"}, {"digest": "e"}, {"precision": "bf16"}, {"seed": 0}]
)
def test_what_is_no_repeat_has_a_line_of_its_own(other):
    assert len(_sweep_table.lines([some(), some(**{"seed": 1, **other})])) == 2
    assert len(_sweep_table.lines([some(), some(seed=1)])) == 1


def test_time_is_summed_over_the_starts():
    log = [{"step": s, "images_per_second": r} for s, r in ((10, 1.0), (20, 10.0), (25, 2.0))]
    assert _sweep_row.seconds(log, [20], 25, 2) == 20 * 2 / 10 + 5 * 2 / 2
    assert _sweep_row.seconds(log, [], 25, 2) == 25 * 2 / 2
    assert _sweep_row.seconds(log[:1], [10], 20, 2) is None


@pytest.mark.parametrize("name", sorted(known("clctl.methods")))
def test_passes_of_every_method(name):
    teachers = {"byol": 2, "moco_v3": 2, "dino": 2}
    recipe = read(packaged()[name], ("encoder.width=8",))
    if name == "cpc":
        assert passes(recipe) == recipe.method.grid(recipe.views.sizes[0]) ** 2
    elif name in ("moco_v1", "moco_v2"):
        assert passes(recipe) == 2  # a query and a key
    else:
        assert passes(recipe) == recipe.views.count + teachers.get(name, 0)


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        (("--seeds", "0"), 2, "--seeds"),
        (("--max-time", "soon"), 2, "--max-time"),
        (("--device", "gpu"), 2, "gpu"),
        (("x/simclr.yaml",), 2, "simclr"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(more, code, word, clctl, tmp_path):
    answer = clctl("sweep", "simclr", "--out", tmp_path / "s", *more)
    assert answer.code == code
    assert word in answer.err
    assert not (tmp_path / "s").exists()


def test_a_run_is_no_folder_for_a_sweep(swept, clctl):
    answer = clctl("sweep", "simclr", "--out", swept[0] / "runs/simclr-0")
    assert answer.code == 2
    assert "is a run" in answer.err


def test_children_share_the_devices_and_tell_how_they_ended():
    told = []

    def task(device):
        first = yield ["list", "methods"]
        second = yield ["list", "nothing"]
        told.append((device, first.code, len(first.document["methods"]) > 10, second.code))
        assert "no list of nothing" in second.why

    work([task, task], ("one", "two"), Stop(None))
    assert sorted(told) == [("one", 0, True, 2), ("two", 0, True, 2)]


def test_a_child_that_is_killed_says_so():
    child = Child(["list", "methods"])
    child.process.send_signal(signal.SIGKILL)
    child.process.wait()
    ended = child.ended()
    assert ended is not None
    assert ended.why == "ended by SIGKILL"


def test_a_row_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "row.json"
    path.write_text('{"schema": "clctl/run/1"}', "utf-8")
    with pytest.raises(Problem, match=r"row\.json is no row of a sweep: schema"):
        _sweep_row.read(path)


@pytest.mark.soak
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_the_child_which_saves(sent, code, tmp_path):
    folder, words = tmp_path / "s", ("--seeds", "1", "--set", "train.epochs=1000")
    command = [sys.executable, "-m", "clctl", "sweep", "simclr", *TINY, *words, "--out", folder]
    begun = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    log, late = folder / "runs/simclr-0/metrics.jsonl", time.monotonic() + 120
    while not log.exists() and time.monotonic() < late:
        time.sleep(0.1)
    os.kill(begun.pid, sent)
    _, said = begun.communicate(timeout=60)
    assert begun.returncode == code, said
    assert "Traceback" not in said
    document = json.loads((folder / "table.json").read_text("utf-8"))
    assert document["remaining"] == ["simclr-0"]
    assert document["rows"][0]["state"] == "stopped"
    state = json.loads((folder / "runs/simclr-0/run.json").read_text("utf-8"))
    assert state["status"] == "stopped by SIGTERM"
    assert list((folder / "runs/simclr-0/checkpoints").glob("step-*/manifest.json"))
