"""Runs in forked children, which spare the seconds that torch takes to import; and their end."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import sklearn.datasets  # noqa: F401 (before the forks)
import torch

from clctl.commands.pretrain import Order, pretrain
from clctl.console import Problem, Talk
from clctl.store import checkpoint, reading

TIMED = ("time", "images_per_second", "waiting")
TINY = ("encoder.width=8", "train.epochs=1", "checkpoint.every_steps=3", "report.log_every=2")
TINY += (
    "train.batch_size=128",
    "guard.action=warn",
)  # a network so narrow is not to learn anything
METHODS = {
    "simclr": (),
    "moco_v2": ("method.queue=256",),
    "swav": ("method.queue=128", "method.queue_from=0"),
    "dino": (),
}


def launch(order: Order, log: Path) -> int:
    """Start a run in a child process; gives its pid. It leaves with the run's exit code."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    assert order.out is not None
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        pictures = order.out / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        (pictures / "views.png").touch()  # as if drawn: that takes a second
        code = int(pretrain(order, Talk()).exit)
    except Problem as problem:
        print(problem.text(), file=sys.stderr)
        code = int(problem.exit)
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, after: float) -> int | None:
    """Exit code of a child that ends within `after` seconds, else None."""
    limit = time.monotonic() + after
    while True:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= limit:
            return None
        time.sleep(0.005)


def finished(order: Order, log: Path) -> tuple[int, float]:
    """Run to the end; gives the child's pid and the seconds."""
    begun, pid = time.monotonic(), launch(order, log)
    assert ended(pid, 3600) == 0, log.read_text()
    return pid, time.monotonic() - begun


def killed(order: Order, log: Path, after: float, first: bool) -> tuple[int, bool]:
    """Run and kill -9 after so many seconds, counted from the first checkpoint if `first`.

    Returns:
        The child's pid, and whether it was alive until then.
    """
    pid = launch(order, log)
    assert order.out is not None
    while first and not checkpoint.steps(order.out):
        assert ended(pid, 0) is None, log.read_text()
        time.sleep(0.005)
    if (code := ended(pid, after)) is not None:
        assert code == 0, log.read_text()
        return pid, False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid, True


def state(run: Path) -> dict:
    """run.json, empty where it is not there yet."""
    path = run / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def newest(run: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    folder = checkpoint.newest(run, lambda text: None)
    return 0 if folder is None else checkpoint.read(folder)["step"]


def tensors(run: Path) -> list[str]:
    """sha256 of the last model and state."""
    last = max(run.glob("checkpoints/step-*"))
    return [reading.digest(last / f"{part}.safetensors") for part in ("model", "state")]


def log_of(run: Path) -> list[dict]:
    """The log without its times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
