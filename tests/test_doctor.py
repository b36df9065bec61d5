"""The doctor: a whole machine, and machines that are ill in one way each."""

import math
import socket
import sys
from pathlib import Path

import pytest

from clctl.commands import _checks, _trial
from clctl.commands import doctor as command
from clctl.console import Talk

TORCH = """
__version__ = "2.14.0"
class version:
    cuda = {cuda!r}
class cuda:
    is_available = staticmethod(lambda: False)
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
def get_num_threads():
    return 1
"""
CARD = {"name": "NVIDIA H100", "free": 70 * 2**30, "total": 80 * 2**30}


@pytest.fixture
def ill(tmp_path, monkeypatch):
    """Put packages before the real ones: ill(torch="raise ...") -> the report."""

    def report(**sources: str):
        for name, source in sources.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(source)
        # Not syspath_prepend: this process must not look at the false packages.
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.setattr(command, "_driver", lambda: None)
        return command.doctor(Talk(quiet=True))

    return report


def row(report, name: str) -> dict:
    (found,) = [r for r in report.document["checks"] if r["name"] == name]
    return found


def test_this_machine_trains_and_the_answer_can_be_pasted(clctl, tmp_path, monkeypatch):
    home = tmp_path / "homes" / "someone"
    (home / "work").mkdir(parents=True)
    monkeypatch.chdir(home / "work")
    for name, value in (("HOME", home), ("LOGNAME", "someone"), ("CLCTL_CACHE", home / "cache")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(command, "SECONDS", 0.1)
    answer = clctl("doctor", "--json")
    document = answer.document
    assert (document["schema"], document["problems"]) == ("clctl/doctor/1", 0)
    assert (answer.code, document["ready"]) == (0, True)
    checks = {check["name"]: check for check in document["checks"]}
    assert {"python", "clctl", "torch", "processor", "memory", "runs", "cache"} <= set(checks)
    trained = checks["train cpu"]["facts"]
    assert trained["steps"] > _trial.COLD
    assert trained["images_per_second"] > 1
    assert trained["loss_first"] == pytest.approx(math.log(2 * 64 - 1), rel=0.1)  # batch 64
    assert checks["cache"]["words"].startswith("~/cache holds 0 MiB")
    for secret in ("someone", str(home), f"/{socket.gethostname()}"):
        assert secret not in answer.out
    assert list((home / "work").iterdir()) == []  # nothing stays behind
    assert not (home / "cache").exists()


def test_a_torchvision_of_another_torch_is_explained(ill):
    error = "raise RuntimeError('operator torchvision::nms does not exist')"
    report = ill(torch=TORCH.format(cuda=None), torchvision=error)
    found = row(report, "torch")
    assert (report.exit, found["state"]) == (1, "problem")
    assert "CPU build; they do not fit each other: RuntimeError" in found["words"]
    assert "operator torchvision::nms does not exist" in found["words"]
    assert "--force-reinstall torch torchvision" in found["remedy"]
    assert not [r for r in report.document["checks"] if r["name"].startswith("train")]
    assert report.text.splitlines()[-1].startswith("not ready: problems 1")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("import os, sys; print('out of handles', file=sys.stderr); os._exit(3)", "code 3: out of"),
    ],
)
def test_a_torch_that_cannot_load_does_not_take_the_doctor_along(ill, source, words):
    report = ill(torch=source)
    assert report.exit == 1
    assert words in row(report, "torch")["words"]
    assert report.document["problems"] == 1
    assert row(report, "processor")["state"] in ("ok", "note")


def test_a_torch_that_never_answers_is_left(ill, monkeypatch):
    monkeypatch.setattr(command, "PATIENCE", 1.0)
    report = ill(torch="import time; time.sleep(60)")
    assert "no answer within 1 seconds" in row(report, "torch")["words"]


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(command, "installed", {"torch": "2.14.0"}.get)
    loads = {"version": "2.14.0", "build": "CPU"}
    check = command._torch({"torch": loads, "torchvision": {"error": "ModuleNotFoundError: ..."}})
    assert (check.state, check.remedy) == ("problem", "pip install torchvision")


@pytest.mark.parametrize(
    ("torch", "vision", "fits"),
    [
        ("2.14.1", "0.29.1", True),
        ("2.11.0+cpu", "0.26.0+cu128", True),  # the numbers; their builds are tried
        ("2.14.0", "0.28.0", False),
        ("2.0.1", "0.15.2", True),
        ("3.0.0", "1.0.0", True),
    ],
)
def test_releases_that_belong_together(torch, vision, fits):
    assert command.fitting(torch, vision) is fits


def seen(cards=(), build="CUDA 13.0", warnings=()):
    devices = {"cards": list(cards), "mps": False, "warnings": list(warnings)}
    return {"torch": {"build": build}, "devices": devices}


@pytest.mark.parametrize(
    ("found", "state", "words", "remedy"),
    [
        (seen([CARD]), "ok", "NVIDIA H100, 70.0 of 80.0 GiB free, driver 580.1", "None"),
        (seen(build="CPU"), "note", "which torch does not see", "install torch's CUDA build"),
        (seen(warnings=["driver is too old"]), "note", "driver is too old", "update the driver"),
        ({"devices": {"error": "CUDA error"}}, "problem", "CUDA error", "CUDA_VISIBLE_DEVICES="),
    ],
)
def test_a_card_and_why_torch_does_not_see_it(monkeypatch, found, state, words, remedy):
    monkeypatch.setattr(command, "_driver", lambda: ("580.1", "NVIDIA H100"))
    (check,) = command._cards(found)
    assert check.state == state
    assert words in check.words
    assert remedy in str(check.remedy)


def test_training_is_tried_last_where_a_run_would_be():
    assert command._devices(seen()) == ["cpu"]
    assert command._devices(seen([CARD, CARD])) == ["cpu", "cuda:1", "cuda:0"]


def test_a_device_that_fails_is_a_problem_only_where_it_is_needed():
    dead = {"error": "AcceleratorError: no kernel image"}
    assert command._trained("cuda:1", dead, needed=False).state == "note"
    check = command._trained("cuda:0", dead, needed=True)
    assert (check.state, str(check.remedy)[:12]) == ("problem", "--device cpu")
    flat = {"images_per_second": 9, "size": 64, "where": "cpu", "steps": 3}
    losses = {"loss_first": 4.0, "loss_last": 4.5}
    assert "did not fall" in command._trained("cpu", flat | losses, needed=True).words


def test_a_loss_that_is_not_finite_is_told(monkeypatch, capfd):
    monkeypatch.setattr("clctl.optim.peak", lambda config, batch: 1e30)
    _trial.main(["train", "cpu", "30"])
    assert "NotFinite: the loss is not finite" in capfd.readouterr().out


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file")
    (tmp_path / "cache").write_text("another")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache" / "clctl"))
    runs, cache = _checks.folders()
    assert (runs.state, cache.state) == ("problem", "problem")
    assert "runs cannot be written" in runs.words
    assert "--out" in str(runs.remedy)
    assert "CLCTL_CACHE" in str(cache.remedy)


@pytest.mark.parametrize(("free", "state"), [(2**20, "problem"), (2**30, "note"), (2**40, "ok")])
def test_room_on_the_disk(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(_checks.shutil, "disk_usage", lambda path: type("U", (), {"free": free}))
    assert _checks.folder("runs", tmp_path / "runs", "elsewhere").state == state


def test_the_size_of_the_cache(tmp_path, monkeypatch):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "canvas.u8").write_bytes(bytes(3 * 2**20))
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path))
    assert _checks.folders()[1].facts["used"] == 3 * 2**20


def texts(monkeypatch, **files: str) -> None:
    """Let the machine's own files say this, and be absent otherwise."""
    monkeypatch.setattr(
        _checks, "_text", lambda path: files.get(Path(path).name.split(".")[-1], "")
    )


def test_limits_of_a_container(monkeypatch):
    texts(
        monkeypatch,
        meminfo="MemTotal:   16777216 kB\nMemAvailable:   8388608 kB\n",
        max="1073741824",
        cpuinfo="model name\t: Some CPU\nflags\t\t: fpu avx512_bf16 amx_bf16\n",
    )
    memory = _checks.memory()
    assert memory.state == "note"
    assert memory.words == "8.0 GiB of 16.0 GiB free; this container may use 1.0 GiB"
    texts(monkeypatch, max="150000 100000", cpuinfo="flags\t: fpu amx_bf16\n")
    monkeypatch.setattr(_checks.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    processor = _checks.processor()
    assert processor.words.endswith("amx_bf16; this container may use 1.5")
    assert str(processor.remedy).startswith("export OMP_NUM_THREADS=1:")


def test_clock_and_letters(monkeypatch):
    monkeypatch.setattr(_checks.time, "time", lambda: 0.0)
    assert _checks.clock().words == "1970-01-01 00:00 UTC, before clctl was installed"
    monkeypatch.setattr(_checks.sys, "stdout", type("S", (), {"encoding": "latin-1"}))
    output = _checks.output()
    assert (output.state, output.facts["stdout"]) == ("note", "latin-1")


def test_private_words(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("LOGNAME", "someone")
    monkeypatch.setattr(_checks.socket, "gethostname", lambda: "box")
    shown = _checks.private(
        [{"a": "/home/someone/x and /home/someone2", "b": 1}, "/data/someone/box/boxes"]
    )
    assert shown == [{"a": "~/x and /home/someone2", "b": 1}, "/data/USER/HOST/boxes"]
