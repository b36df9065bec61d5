"""Runs that are killed, stopped, launched twice: the same command goes on, bit for bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHORT = {"train.epochs": 2, "checkpoint.every_steps": 5, "report.log_every": 4}


def command(method: str, out: Path, seed: int = 0, **more: object) -> list[str]:
    settings = {**SHORT, "seed": seed, **more}
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    return [sys.executable, "-m", "clctl", "pretrain", method, *sets, "--out", str(out), "--json"]


def start(*arguments, **more) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments, **more), stdout=pipe, stderr=pipe, text=True)


def finish(*arguments, **more) -> dict:
    done = subprocess.run(command(*arguments, **more), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for_checkpoint(process: subprocess.Popen, run: Path) -> None:
    limit = time.monotonic() + 150
    while not list(run.glob("checkpoints/step-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def digest(run: Path) -> list[str]:
    last = run / "checkpoints" / "step-00000044"
    files = (last / f"{part}.safetensors" for part in ("model", "state"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_killed_and_continued_ends_in_the_same_bytes(method, tmp_path):
    process = start(method, tmp_path / "killed")
    wait_for_checkpoint(process, tmp_path / "killed")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = finish(method, tmp_path / "killed")
    assert 0 < again["resumed_from"] < 44
    assert again["resumed_from"] % 22 != 0  # in the middle of an epoch
    assert finish(method, tmp_path / "whole")["resumed_from"] == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    logs = [_untimed(tmp_path / name) for name in ("killed", "whole")]
    assert logs[0] == logs[1]
    finish(method, tmp_path / "other", seed=1)
    assert digest(tmp_path / "other") != digest(tmp_path / "whole")


def _untimed(run: Path) -> list[dict]:
    times = ("time", "images_per_second", "waiting")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_save_and_say_so(number, code, tmp_path):
    run = tmp_path / "run"
    process = start("simclr", run, **{"train.epochs": 500})
    wait_for_checkpoint(process, run)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    document = json.loads(out)
    assert document["status"] == "stopped"
    assert (Path(document["checkpoint"]) / "manifest.json").exists()
    assert json.loads((run / "run.json").read_text())["step"] == document["steps"]


def test_time_limit(tmp_path):
    limited = [*command("simclr", tmp_path / "run", **{"train.epochs": 500}), "--max-time", "1s"]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert done.returncode == 75
    assert json.loads(done.stdout)["reason"] == "--max-time"


def test_second_launch_is_refused(clctl, tmp_path):
    from clctl.store.run import Run

    run = Run(tmp_path / "run")
    run.open()
    with run.lock():
        answer = clctl("pretrain", "simclr", "--out", tmp_path / "run")
    assert answer.code == 6
    assert str(os.getpid()) in answer.err


def test_help_and_lists_do_not_wait_for_torch():
    code = (
        "import sys\nfrom clctl.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "slow = {'torch', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)\nassert not slow, slow"
    )
    commands = ["pretrain", "knn-eval", "linear-probe", "export", "validate"]
    commands += ["list", "recipe", "views", "inspect"]
    lines = [["list", what] for what in ("methods", "encoders", "data", "recipes")]
    lines += [["recipe", "byol"], ["runs", "clean", "."], ["cache", "ls"]]
    for line in [["--help"], *lines, *([name, "--help"] for name in commands)]:
        done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if line[-1] == "--help" and len(line) > 1:
            assert f"Example: clctl {line[0]}" in done.stdout
