"""clctl runs on folders made here, file by file, as runs leave them behind."""

import json
import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clctl.store import checkpoint
from clctl.store.run import Run

RECIPE = {
    "seed": 3,
    "data": {"name": "folder", "path": "/somewhere/photos"},
    "encoder": {"name": "resnet_small"},
    "method": {"name": "simclr"},
    "train": {"epochs": 10},
}


def make(folder: Path, status: str | None, steps: tuple[int, ...] = (), last: int = 40, **more):
    """A run of 100 steps with checkpoints at `steps` and a log up to `last`."""
    run = Run(folder)
    run.open()
    (folder / ".lock").touch()
    run.write_json("recipe.resolved.json", RECIPE)
    if status is not None:
        day = more.pop("day", 1)
        started = f"2026-01-{day:02d}T00:00:00+00:00"
        run.write_json("run.json", {"status": status, "started_utc": started, **more})
    run.log({"step": last, "loss": 1.0, "epoch": last / 10})
    for step in steps:
        tensor = {"w": torch.full((1000,), float(step))}
        checkpoint.save(folder, step, tensor, tensor, {}, {})
    return folder


def score(folder: Path, top1: float, low: float, high: float, data: str = "d1", name="knn-eval-x"):
    document = {
        "schema": "clctl/knn-eval/1",
        "metrics": {"top1": top1, "balanced_accuracy": 1 - top1},
        "top1_ci95": [low, high],
        "data": {"name": "photos", "fingerprint": data, "test": "test", "test_images": 500},
        "checkpoint": {"step": 100},
    }
    (folder / "evaluations" / f"{name}.json").write_text(json.dumps(document))


def states(answer) -> dict[str, str]:
    return {run["name"]: run["state"] for run in answer.document["runs"]}


def test_ls_tells_every_state_and_the_run_begun_last_comes_first(tmp_path, clctl):
    done = make(tmp_path / "a", "done", (100,), 100, day=1)
    Run(done).write_json(
        "report.json",
        {"steps": 100, "metrics": {"top1": 0.75}, "top1_ci95": [0.7, 0.8]},
    )
    make(tmp_path / "b", "stopped by --max-time", (40,), day=2, step=40)
    make(tmp_path / "c", "failed: train.collapsed", day=3)
    make(tmp_path / "d", "failed: train.not-finite", day=4)
    make(tmp_path / "e", "running", day=5)
    busy = make(tmp_path / "f", "running", day=6)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(done)
    with Run(busy).lock():
        answer = clctl("runs", "ls", tmp_path, "--json")
        again = clctl("runs", "ls", tmp_path)
    assert answer.code == 0
    document = answer.document
    assert document["schema"] == "clctl/runs/1"
    assert [run["name"] for run in document["runs"]] == list("fedcba")
    assert states(answer) == {
        "a": "done",
        "b": "stopped",
        "c": "collapsed",
        "d": "failed",
        "e": "unfinished",
        "f": "running",
    }
    first = document["runs"][-1]
    assert (first["top1"], first["top1_ci95"], first["step"]) == (0.75, [0.7, 0.8], 100)
    named = [first[key] for key in ("method", "encoder", "data", "seed")]
    assert named == ["simclr", "resnet_small", "photos", 3]
    real = sum(p.stat().st_size for p in done.rglob("*") if p.is_file())
    assert first["bytes"] == real
    for said in ("stopped at step 40 of 100", "failed: train.not-finite", "75.0 % [70.0, 80.0]"):
        assert said in again.out
    assert clctl("runs", "ls", tmp_path, "-q").out.split() == [str(tmp_path / n) for n in "fedcba"]


def test_asking_for_the_lock_does_not_take_it(tmp_path, clctl):
    run = Run(make(tmp_path / "a", "running"))
    before = (run.folder / ".lock").read_bytes()
    assert states(clctl("runs", "ls", tmp_path, "--json")) == {"a": "unfinished"}
    assert (run.folder / ".lock").read_bytes() == before
    with run.lock():
        held = (run.folder / ".lock").read_bytes()
        assert states(clctl("runs", "ls", tmp_path, "--json")) == {"a": "running"}
        assert (run.folder / ".lock").read_bytes() == held


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", "{", "run.json is damaged"),
        ("run.json", None, "run.json is missing"),
        ("run.json", '{"status": 5}', "status ''"),
        ("recipe.resolved.json", "[1]", "recipe.resolved.json is damaged"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl is damaged"),
    ],
)
def test_a_broken_run_is_listed_with_its_reason(tmp_path, clctl, name, content, reason):
    folder = make(tmp_path / "a", "done", (100,))
    make(tmp_path / "b", "done")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    answer = clctl("runs", "ls", tmp_path, "--json")
    assert answer.code == 0
    assert states(answer) == {"a": "broken", "b": "done"}
    (why,) = [run["why"] for run in answer.document["runs"] if run["name"] == "a"]
    assert reason in why
    assert clctl("runs", "clean", tmp_path, "--yes").code == 0
    assert checkpoint.steps(folder) == [100]


def test_places_that_are_no_folder_of_runs(tmp_path, clctl):
    assert clctl("runs", "ls", tmp_path).out.strip() == f"no runs in {tmp_path}"
    missing = clctl("runs", "ls", tmp_path / "none")
    assert (missing.code, "clctl pretrain" in missing.err) == (2, True)
    one = clctl("runs", "ls", make(tmp_path / "a", "done"))
    assert (one.code, "clctl runs show" in one.err) == (2, True)
    assert clctl("runs", "show", tmp_path / "none").code == 5


def test_two_hundred_runs_are_listed_fast_and_without_torch(tmp_path):
    long = b"".join(b'{"step": %d, "loss": 1.0, "epoch": 1.0}\n' % i for i in range(1, 2000))
    for i in range(200):
        folder = tmp_path / f"r{i}"
        (folder / "evaluations").mkdir(parents=True)
        (folder / "metrics.jsonl").write_bytes(long)
        (folder / "recipe.resolved.json").write_text(json.dumps(RECIPE))
        (folder / "run.json").write_text('{"status": "done"}')
    code = (
        "import sys, time; from clctl.__main__ import main\n"
        f"try: main(['runs', 'ls', {str(tmp_path)!r}, '-q'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 200
    assert float(done.stderr.split()[-1]) < 1.5


def test_show_tells_all_of_one_run(trained, clctl):
    folder, _ = trained
    answer = clctl("runs", "show", folder)
    assert answer.code == 0
    for said in (
        "done, 44 of 44 steps",
        "simclr, resnet_small, digits, seed 0",
        "train.epochs: 40 -> 2",
        "step-00000044",
        "knn-eval-digits-test-k20-t0.07  top-1 ",
        f"clctl report {folder} -o {folder.name}.html",
    ):
        assert said in answer.out
    document = clctl("runs", "show", folder, "--json").document
    assert document["schema"] == "clctl/runs-show/1"
    assert document["recipe"]["packaged"] == "simclr"
    assert sum(document["disk"].values()) == document["bytes"]
    assert next(iter(document["disk"])) == "checkpoints"


def test_show_says_how_a_stopped_run_goes_on(tmp_path, clctl):
    folder = make(tmp_path / "a b", "stopped by SIGTERM", (40,), step=40)
    answer = clctl("runs", "show", folder)
    assert f"clctl pretrain '{folder}'" in answer.out
    assert "stopped at step 40 of 100" in answer.out


def test_best_is_of_the_same_images_and_protocol(tmp_path, clctl):
    for name, top1, data in (("a", 0.80, "d1"), ("b", 0.82, "d1"), ("c", 0.99, "d2")):
        score(make(tmp_path / name, "done"), top1, top1 - 0.03, top1 + 0.03, data)
    score(tmp_path / "a", 0.995, 0.99, 1.0, name="linear-probe-x")
    answer = clctl("runs", "best", tmp_path)
    assert answer.code == 0
    first, second, third, *others = answer.out.splitlines()
    assert first.startswith(f"{tmp_path / 'b'}: top1 82.0 %")
    assert second.startswith(f"next: {tmp_path / 'a'}: top1 80.0 %")
    assert "overlap: it need not be better" in third
    assert len(others) == 2
    assert all(line.startswith("not compared with that: ") for line in others)
    assert clctl("runs", "best", tmp_path, "-q").out == f"{tmp_path / 'b'}\n"
    other = clctl("runs", "best", tmp_path, "--metric", "balanced_accuracy", "--json").document
    assert other["best"] == str(tmp_path / "a")
    assert other["groups"][0]["overlap"] is None
    score(tmp_path / "b", 0.90, 0.87, 0.93)
    assert "do not overlap" in clctl("runs", "best", tmp_path).out


def test_best_is_refused_where_nothing_says_which_data_is_meant(tmp_path, clctl):
    score(make(tmp_path / "a", "done"), 0.8, 0.7, 0.9, "d1")
    score(make(tmp_path / "b", "done"), 0.9, 0.8, 1.0, "d2")
    mixed = clctl("runs", "best", tmp_path, "-q")
    assert (mixed.code, mixed.out) == (2, "")
    none = clctl("runs", "best", tmp_path, "--metric", "nonsense")
    assert (none.code, "nonsense" in none.err) == (5, True)
    assert "they have: balanced_accuracy, top1\n" in none.err
    (empty := tmp_path / "none").mkdir()
    assert "clctl knn-eval RUN" in clctl("runs", "best", empty).err


def test_a_run_named_for_the_folder_of_runs_is_answered_with_what_can_be_typed(tmp_path, clctl):
    folder = make(tmp_path / "my runs" / "a b", "done")
    answer = clctl("runs", "ls", folder)
    assert answer.code == 2
    words = shlex.split(answer.err.splitlines()[1].replace(", or", " or"))
    assert str(folder) in words
    assert str(folder.parent) in words


def messy(home: Path) -> dict[str, Path]:
    """Runs of which some may go, and some may not."""
    made = {
        "done": make(home / "done", "done", (20, 60, 100)),
        "one": make(home / "one", "done", (100,)),
        "collapsed": make(home / "collapsed", "failed: train.collapsed"),
        "saved": make(home / "saved", "failed: train.collapsed", (20, 40)),
        "scored": make(home / "scored", "failed: train.not-finite"),
        "notes": make(home / "notes", "failed: train.not-finite"),
        "stopped": make(home / "stopped", "stopped by SIGINT", (20, 40)),
        "killed": make(home / "killed", "running", (20, 40)),
    }
    score(made["scored"], 0.5, 0.4, 0.6)
    (made["notes"] / "my-notes.txt").write_text("mine")
    (made["killed"] / "checkpoints" / ".step-00000060.ab.tmp").mkdir()
    return made


def tree(home: Path) -> set[str]:
    return {str(p.relative_to(home)) for p in home.rglob("*")}


def test_clean_asks_somebody_or_removes_nothing(tmp_path, clctl):
    messy(tmp_path)
    before = tree(tmp_path)
    answer = clctl("runs", "clean", tmp_path)
    assert answer.code == 2
    assert "--yes" in answer.err
    assert "2 older checkpoints" in answer.err
    assert tree(tmp_path) == before


def test_clean_removes_what_may_go_and_nothing_else(tmp_path, clctl):
    made = messy(tmp_path)
    before = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    answer = clctl("runs", "clean", tmp_path, "--yes", "--json")
    assert answer.code == 0
    assert not made["collapsed"].exists()
    kept = {name: checkpoint.steps(path) for name, path in made.items() if path.exists()}
    assert kept == {
        "done": [100],
        "one": [100],
        "saved": [40, 20],
        "scored": [],
        "notes": [],
        "stopped": [40, 20],
        "killed": [40, 20],
    }
    assert not list((made["killed"] / "checkpoints").glob(".*"))
    checkpoint.verify(made["done"] / "checkpoints" / "step-00000100")
    gone = {Path(path).name for path in answer.document["freed"]}
    assert gone == {"done", "collapsed", "killed"}
    after = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    signed = 400  # a lock that was taken holds the taker's name
    assert abs(before - after - answer.document["bytes"]) <= signed
    assert "may go" in clctl("runs", "clean", tmp_path, "--yes").out


def test_clean_keeps_the_last_good_checkpoint_where_the_newest_is_damaged(tmp_path, clctl):
    folder = make(tmp_path / "a", "done", (20, 60, 100))
    damaged = folder / "checkpoints" / "step-00000100" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert clctl("runs", "clean", tmp_path, "--yes").code == 0
    assert 60 in checkpoint.steps(folder)
    checkpoint.verify(folder / "checkpoints" / "step-00000060")


def test_clean_leaves_a_run_alone_that_is_taken_up_meanwhile(tmp_path, clctl, monkeypatch):
    folder = make(tmp_path / "a", "done", (20, 100))
    with Run(folder).lock():
        answer = clctl("runs", "clean", tmp_path, "--yes")
    assert answer.code == 0
    assert "left alone" in answer.out
    assert checkpoint.steps(folder) == [100, 20]


@pytest.mark.parametrize(("typed", "left"), [(b"y\n", [100]), (b"\n", [100, 20])])
def test_clean_asks_at_a_terminal(tmp_path, typed, left):
    folder = make(tmp_path / "a", "done", (20, 100))
    here, there = pty.openpty()
    command = [sys.executable, "-m", "clctl", "runs", "clean", str(tmp_path)]
    with subprocess.Popen(
        command, stdin=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(0.1)
        os.write(here, typed)
        _, err = process.communicate(timeout=60)
    os.close(here)
    os.close(there)
    assert process.returncode == 0
    assert b"[y/N]" in err
    assert checkpoint.steps(folder) == left
