"""Signals at any moment, time that stands still, and two launches of one run."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from clctl.commands import _stop, pretrain
from clctl.commands._stop import Signalled, Stop
from clctl.console import Exit, Problem, Talk
from clctl.store import checkpoint

LONG = ("encoder.width=8", "train.epochs=500", "checkpoint.every_steps=4", "report.log_every=2")
LONG += ("guard.action=warn", "report.knn_every=500")
BRIEF = (*LONG[:1], "train.epochs=1", *LONG[2:])


def job(run: Path, sets: tuple[str, ...] = LONG, **more) -> pretrain.Order:
    (run / "pictures").mkdir(parents=True, exist_ok=True)
    (run / "pictures" / "views.png").touch()
    return pretrain.Order("simclr", sets, out=run, **more)


def state(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def sending(monkeypatch, place: str, number: int) -> None:
    """Send this process a signal when a function is first called, and then do what it does."""
    real, left = named(place), [number]

    def call(*arguments, **more):
        while left:
            os.kill(os.getpid(), left.pop())
        return real(*arguments, **more)

    monkeypatch.setattr(place, call)


def named(place: str):
    """What stands under a dotted name, which may pass through a class."""
    names, count = place.split("."), 3
    found = import_module(".".join(names[:count]))
    for name in names[count:]:
        found = getattr(found, name)
    return found


NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("number", NUMBERS)
def test_in_training_the_step_is_saved_and_the_risk_is_told(number, monkeypatch, tmp_path, capfd):
    sending(monkeypatch, "clctl.commands._training.Trainer._log", number)
    report = pretrain.pretrain(job(tmp_path / "run"), Talk())
    assert report.exit == (130 if number == signal.SIGINT else 75)
    assert report.document["reason"] == signal.Signals(number).name
    folder = checkpoint.newest(tmp_path / "run", pytest.fail)
    assert folder is not None
    assert (
        checkpoint.verify(folder)["step"]
        == report.document["steps"]
        == state(tmp_path / "run")["step"]
    )
    err = capfd.readouterr().err
    assert f"saving step {report.document['steps']}; a signal leaves at once and loses" in err


@pytest.mark.parametrize(
    ("place", "done"),
    [
        ("clctl.commands.pretrain.load", 0),
        ("clctl.commands._training.Trainer.arm", 0),
        ("clctl.commands._trained.restore", 4),
        ("clctl.commands.pretrain.finish", 22),
        ("clctl.commands._finish.evaluate", 22),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_elsewhere_it_leaves_with_the_same_codes(number, place, done, monkeypatch, tmp_path):
    run = tmp_path / "run"
    if done == 4:
        with monkeypatch.context() as first:
            sending(first, "clctl.commands._training.Trainer.save", signal.SIGTERM)
            assert pretrain.pretrain(job(run, BRIEF), Talk(True)).document["steps"] == 5
        done = 5
    with monkeypatch.context() as now:
        sending(now, place, number)
        with pytest.raises(Problem, match="nothing was lost") as caught:
            pretrain.pretrain(job(run, BRIEF), Talk(True))
    assert caught.value.exit == (130 if number == signal.SIGINT else 75)
    assert max([0, *checkpoint.steps(run)]) == done
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    report = pretrain.pretrain(job(run, BRIEF), Talk(True))
    assert (report.exit, report.document["resumed_from"]) == (0, done)
    assert state(run)["status"] == "done"


def test_while_pictures_are_decoded_nothing_is_left_behind(monkeypatch, tmp_path):
    from conftest import photographs

    photographs(tmp_path / "photos", 20)
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    order = pretrain.Order("folder", data=str(tmp_path / "photos"), out=tmp_path / "run")
    sending(monkeypatch, "clctl.data.build._lay_out", signal.SIGTERM)
    with pytest.raises(Problem, match="stopped by SIGTERM") as caught:
        pretrain.pretrain(order, Talk(True))
    assert caught.value.exit == Exit.PREEMPTED
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    assert not (tmp_path / "run").exists()


def command(run: Path, *sets: str) -> list[str]:
    words = [word for change in sets for word in ("--set", change)]
    return [sys.executable, "-m", "clctl", "pretrain", "simclr", *words, "--out", str(run)]


TWICE = """
import os, signal, sys
from clctl.commands import _training
save = _training.Trainer.save
def twice(self, step):
    save(self, step)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
_training.Trainer.save = twice
from clctl.__main__ import main
main(sys.argv[1:])
"""


def test_a_second_signal_leaves_at_once_and_says_what_is_lost(tmp_path):
    run = tmp_path / "run"
    job(run)
    line = [sys.executable, "-c", TWICE, *command(run, *BRIEF)[3:]]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    assert done.returncode == 128 + signal.SIGTERM
    assert "left at once; about 0 s of work are lost; the same command continues" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.newest(run, pytest.fail) == run / "checkpoints" / "step-00000004"


def test_lost_work_is_said_in_steps_and_seconds(tmp_path, clctl):
    run = tmp_path / "run"
    sets = [word for change in BRIEF for word in ("--set", change)]
    limited = clctl("pretrain", "simclr", *sets, "--out", job(run).out, "--max-time", "0.001s")
    assert limited.code == 75
    document = state(run)
    document = {**document, "status": "running"}
    document.pop("document_sha256")
    (run / "run.json").write_text(json.dumps(document))
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "images_per_second": 8.0}\n{"step": 9, "imag')
    answer = clctl("pretrain", "simclr", *sets, "--out", run, "--json")
    assert answer.code == 0, answer.err
    # 6 steps of 64 images at 8 images a second
    assert "killed after step 7: 6 steps, about 48 s of work, are done again" in answer.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, *range(2, 23, 2)]


def test_a_clock_that_is_set_and_a_laptop_that_sleeps_do_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_stop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 1e12)  # hours later, to anyone who asks for it
    stop = Stop(60.0)
    now[0] += 59.9
    assert stop.reason is None
    assert stop.unsaved == pytest.approx(59.9)
    now[0] += 0.2
    assert stop.reason == "--max-time"
    stop.saved()
    assert stop.unsaved == 0
    for path in (
        *Path(_stop.__file__).parent.glob("_*.py"),
        Path(_stop.__file__).parents[1] / "engine.py",
    ):
        if path.name != "_checks.py":  # `doctor` looks at the clock itself
            assert "time.time()" not in path.read_text(), path


def test_a_signal_between_the_last_step_and_the_score_is_not_forgotten():
    stop = Stop(None)

    def last_step() -> None:
        with stop.listening():
            with stop.steps():
                os.kill(os.getpid(), signal.SIGTERM)
            stop.leave()

    with pytest.raises(Problem, match="stopped by SIGTERM") as caught:
        last_step()
    assert caught.value.exit == Exit.PREEMPTED
    assert isinstance(caught.value.__cause__, Signalled)


def test_two_launches_of_a_new_run_at_once_make_one_run(tmp_path):
    run = tmp_path / "run"
    job(run)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command(run, *BRIEF), **pipes) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    codes = [process.returncode for process in both]
    # The second is refused, or came so late that it found a finished run.
    assert sorted(codes) in ([0, 6], [0, 0]), said
    if 6 in codes:
        winner, loser = both[codes.index(0)], said[codes.index(6)]
        assert f"{run} is in use by process {winner.pid} on " in loser
    assert "Traceback" not in said[0] + said[1]
    assert checkpoint.newest(run, pytest.fail) == run / "checkpoints" / "step-00000022"
    assert state(run)["status"] == "done"


def test_another_recipe_that_began_meanwhile_is_seen_behind_the_lock(monkeypatch, tmp_path):
    run = tmp_path / "run"
    pretrain.pretrain(job(run, BRIEF), Talk(True))
    kept = (run / "run.json").rename(tmp_path / "kept")
    held = pretrain.Run.lock

    def lock(self):
        kept.rename(run / "run.json")
        return held(self)

    monkeypatch.setattr(pretrain.Run, "lock", lock)
    with pytest.raises(Problem, match="seed: 0 -> 1") as caught:
        pretrain.pretrain(job(run, (*BRIEF, "seed=1")), Talk(True))
    assert caught.value.exit == Exit.EXISTS


@pytest.mark.parametrize("host", ["elsewhere", "here"])
def test_a_lock_of_the_dead_is_taken_over(host, tmp_path):
    run = tmp_path / "run"
    order = job(run, BRIEF)
    (run / ".lock").write_text(
        json.dumps({"pid": 1, "host": host, "since": "2020-01-01T00:00:00Z"})
    )
    assert pretrain.pretrain(order, Talk(True)).exit == 0
    assert json.loads((run / ".lock").read_text())["pid"] == os.getpid()
