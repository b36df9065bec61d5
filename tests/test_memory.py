"""Memory that runs out: one message with what was in use, and the batch that fits, tried out."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from clctl.commands import _memory, _setup
from clctl.console import Exit, Talk, out_of_memory
from clctl.methods._in_batch import InBatch
from clctl.recipe.read import find, read

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    RuntimeError(CPU),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]
FEW = ("--set", "train.epochs=1", "--set", "train.precision=fp32", "--set", "encoder.width=8")


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: str(e)[:24])
def test_a_want_of_memory_is_known(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), OSError(28, "No space left"), KeyError("out of memory")],
)
def test_another_error_is_not(error):
    assert not out_of_memory(error)


@pytest.mark.parametrize("error", [*ERRORS[:2], MemoryError()], ids=["cuda", "cpu", "python"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_step_that_does_not_fit(error, more, clctl, tmp_path, monkeypatch):
    calls = []

    def forward(self, batch, clock):
        raise error

    monkeypatch.setattr(InBatch, "forward", forward)
    monkeypatch.setattr(_memory, "largest", lambda *given: calls.append(given) or 16)
    run = tmp_path / "run"
    answer = clctl("pretrain", "simclr", *FEW, "--out", run, "--json", *more)
    assert (answer.code, answer.document["code"]) == (8, "memory.out")
    assert "batch of 64 at 16 px on cpu" in answer.document["message"]
    assert "GiB in use" in answer.document["message"]
    assert answer.document["suggestion"].startswith("--set train.batch_size=16")
    assert len(calls) == 1
    assert not list(run.glob("checkpoints/step-*"))


def test_in_the_middle_of_a_run_the_checkpoint_stays_and_run_json_says_so(
    clctl, tmp_path, monkeypatch
):
    whole = InBatch.forward

    def forward(self, batch, clock):
        if clock.step == 7:
            raise RuntimeError(CPU)
        return whole(self, batch, clock)

    monkeypatch.setattr(_memory, "largest", lambda *given: None)
    monkeypatch.setattr(InBatch, "forward", forward)
    run = tmp_path / "run"
    sets = ("--set", "checkpoint.every_steps=5")
    answer = clctl("pretrain", "simclr", *FEW, *sets, "--out", run)
    assert answer.code == 8
    assert json.loads((run / "run.json").read_text())["status"] == "failed: memory.out"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000005"]
    monkeypatch.setattr(InBatch, "forward", whole)
    again = clctl("pretrain", "simclr", *FEW, *sets, "--out", run, "--json")
    assert (again.code, again.document["resumed_from"]) == (0, 5)


def test_a_score_that_does_not_fit_leaves_the_trained_run(clctl, tmp_path, monkeypatch):
    from clctl.commands import pretrain

    def finish(*parts):
        raise MemoryError

    monkeypatch.setattr(pretrain, "finish", finish)
    answer = clctl("pretrain", "simclr", *FEW, "--out", tmp_path / "run")
    assert answer.code == 8
    assert "trained and saved" in answer.err
    assert f"clctl knn-eval {tmp_path / 'run'} --device cpu" in answer.err
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000022"]


def test_an_evaluation_says_what_to_lower(clctl, trained, monkeypatch):
    from clctl.evaluate import features

    def chunks(*given):
        raise RuntimeError(CPU)

    monkeypatch.setattr(features, "chunks", chunks)
    answer = clctl("knn-eval", trained[0], "--json")
    assert (answer.code, answer.document["code"]) == (8, "memory.out")
    assert "fewer --layers" in answer.document["suggestion"]


class Done:
    def __init__(self, code):
        self.returncode = code


def test_halves_are_tried_in_turn_by_processes_of_their_own(monkeypatch):
    tried, said = [], []

    class Listener(Talk):
        def say(self, text):
            said.append(text)

    def run(command, input, **more):
        job = json.loads(input)
        tried.append(job["recipe"]["train"]["batch_size"])
        if job["recipe"]["train"]["batch_size"] == 3:
            raise subprocess.TimeoutExpired(command, 1)
        return Done(0 if tried[-1] <= fits[0] else -9)

    monkeypatch.setattr(_memory.subprocess, "run", run)
    recipe = read(find("simclr"), ("train.batch_size=100",))
    fits = [0]
    for fits[0], expected in ((25, 25), (30, 25), (4, None)):
        tried.clear()
        assert _memory.largest(recipe, torch.device("cpu"), Listener()) == expected
        assert tried == [50, 25, 12, 6, 3][: len(tried)]
    assert said[:2] == [
        "out of memory; trying a batch of 50 ...",
        "out of memory; trying a batch of 25 ...",
    ]
    even = read(find("simclr"), ("train.batch_size=8",))
    tried.clear()
    fits[0] = 0
    assert _memory.largest(even, torch.device("cpu"), Listener()) == 0
    assert tried == [4, 2]
    where = _setup.machine("cpu", "fp32")
    problem = _memory.told("1 GiB in use", "words", even, where, Listener())
    assert (problem.exit, problem.code) == (Exit.RESOURCES, "memory.out")
    assert "not even of 2" in (problem.suggestion or "")


def test_the_trial_is_two_real_steps(monkeypatch):
    sets = ("train.batch_size=32", "encoder.width=8")
    assert _memory.largest(read(find("simclr"), sets), torch.device("cpu"), Talk(True)) == 16


LIMITED = (
    "import resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)\n"
    "from clctl.__main__ import main\nmain(sys.argv[2:])"
)
PEAK = (
    "import torch, torchvision, scipy.optimize, sklearn\n"
    "print(next(w for w in open('/proc/self/status') if w.startswith('VmPeak')).split()[1])"
)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_under_a_real_limit_the_batch_that_is_named_trains(tmp_path):
    """On two cores about a minute."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    limit = str(int(done.stdout) * 1024 + 1_200_000_000)
    sets = ("train.precision=fp32", "views.size=64", "train.epochs=1", "encoder.width=16")
    flags = [w for s in sets for w in ("--set", s)]

    def run(batch, name):
        command = [sys.executable, "-c", LIMITED, limit, "pretrain", "simclr", *flags]
        command += ["--set", f"train.batch_size={batch}", "--out", str(tmp_path / name), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=280)

    short = run(1400, "large")
    assert short.returncode == 8, short.stderr
    error = json.loads(short.stdout)
    assert error["code"] == "memory.out"
    assert "ulimit -v allows" in error["message"]
    assert "Traceback" not in short.stderr
    batch = int(error["suggestion"].split("=")[1].split(":")[0])
    assert batch in (700, 350, 175, 87, 43)
    fits = run(batch, "small")
    assert fits.returncode == 0, fits.stderr


KEPT = """
import resource, torch
from clctl.commands import _launch
_launch._keep_freed_memory()
for step in range(3):
    torch.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_step_takes_the_memory_that_the_last_one_freed():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**15 // 10  # 2^15 pages of 4 kB are 2^25 floats


LARGE = """
import subprocess, sys
held = b"x" * 2**30
said = "from clctl.commands._memory import resident; print(resident())"
sys.exit(subprocess.run([sys.executable, "-c", said]).returncode)
"""


def test_the_memory_of_who_started_a_process_is_not_its_own():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert 2**24 < int(done.stdout) < 2**30
