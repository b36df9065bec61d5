"""A picture that never ends: named and passed over, while the others are read."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import photographs
from PIL import Image

from clctl.console import Problem
from clctl.data import spread as spreading
from clctl.data.decode import Bad
from clctl.data.open import load
from clctl.data.sources.folder import Config
from clctl.data.spread import spread


def slow(path: str) -> str:
    if Path(path).name.startswith("slow"):
        time.sleep(3)
    return path


def test_a_picture_that_hangs_is_named_and_the_others_are_read(monkeypatch):
    monkeypatch.setattr(spreading, "SECONDS", 0.2)
    paths = [f"{i}" for i in range(200)]
    for at in (0, 15, 16, 33, 34, 199):
        paths[at] = f"slow{at}"
    begin = time.monotonic()
    found = list(spread(paths, slow))
    assert time.monotonic() - begin < 2.5
    for path, each in zip(paths, found, strict=True):
        if path.startswith("slow"):
            assert isinstance(each, Bad)
            assert each.reason == "not decoded within 0.2 s"
            assert not each.lasting  # it slept: that is no finding about the file
        else:
            assert each == path


def busy(path: str) -> str:
    end = time.thread_time() + (1.0 if path == "busy" else 0)
    while time.thread_time() < end:
        pass
    return path


def test_a_picture_that_keeps_the_processor_busy_is_bad_for_good(monkeypatch):
    monkeypatch.setattr(spreading, "SECONDS", 0.5)
    monkeypatch.setattr(spreading, "_busy", lambda task: 0.4)  # cores may be shared here
    found = list(spread(["busy", "a"], busy))
    assert found[1] == "a"
    assert isinstance(found[0], Bad)
    assert found[0].lasting


def test_the_processor_time_of_a_thread_is_its_own():
    task = spreading._Task(["x"])
    task.thread, task.begun = threading.get_ident(), (0, time.monotonic(), time.thread_time())
    list(map(abs, range(300_000)))
    passed = time.thread_time() - task.begun[2]
    assert passed <= spreading._busy(task) < passed + 0.1


def test_an_error_of_ours_in_a_thread_is_not_lost():
    with pytest.raises(ZeroDivisionError):
        list(spread(["1", "0"], lambda path: 1 // int(path)))


def test_nothing_and_one_and_an_early_end():
    assert list(spread([], str.upper)) == []
    assert list(spread(["a"], str.upper)) == ["A"]
    begun = threading.active_count()
    results = spread([str(i) for i in range(500)], str.upper)
    assert next(results) == "0"
    results.close()
    end = time.monotonic() + 5
    while threading.active_count() > begun and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= begun


def many_scans(scans: int, side: int = 2000) -> bytes:
    """A progressive JPEG whose last scan is there many times, each over all of its blocks."""
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_a_jpeg_of_endless_scans_does_not_stop_a_run(tmp_path, monkeypatch):
    root = tmp_path / "d"
    photographs(root, 30)
    (root / "scans.jpg").write_bytes(many_scans(1500))
    monkeypatch.setattr(spreading, "SECONDS", 1.0)
    begin = time.monotonic()
    with pytest.raises(Problem) as caught:
        load(Config(path=str(root)), 16, lambda line: None)
    problem = caught.value
    assert time.monotonic() - begin < 3
    assert "1 picture of 31" in problem.message
    assert "scans.jpg: not decoded within 1 s" in problem.message
    data = load(Config(path=str(root), bad_images="skip"), 16, lambda line: None)
    assert len(data.splits["train"]) == 30
    assert any("scans.jpg" in note for note in data.notes)


def test_a_process_ends_while_a_decoder_hangs():
    script = (
        "import time; from clctl.data import spread as s; s.SECONDS = 0.1\n"
        "print(list(s.spread(['a'], lambda path: time.sleep(60)))[0].reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, "not decoded within 0.1 s\n"), done.stderr
