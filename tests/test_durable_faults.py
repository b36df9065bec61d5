"""Whole runs when the disk fails, fills up, is read-only or goes away; and what writes to a run.

With `-m soak` every fault is tried at the 1st, 2nd, ... call of a run that reaches the disk, until
the run gets through; without, at some of them.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_store_faults import REAL, Crash, Faulty

from clctl.commands.pretrain import Order, pretrain
from clctl.console import Exit, Problem, Talk
from clctl.store import checkpoint, disk, reading
from clctl.store.run import Run

TINY = ("encoder.width=8", "train.epochs=2", "train.batch_size=8", "report.log_every=1")
TINY += ("checkpoint.every_steps=2", "guard.action=warn", "train.precision=fp32")
FAULTS = [errno.ENOSPC, errno.EIO, errno.EINTR, errno.EROFS]
FAULTS += ["short write", "done, then an error", "crash before", "crash after"]
TOTAL = 6
TIMED = ("time", "images_per_second", "waiting")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "set.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8))
    return path


def order(pictures: Path, run: Path, *more: str) -> Order:
    return Order("simclr", (*TINY, f"data.path={pictures}", "data.name=arrays", *more), out=run)


def undrawn(run: Path) -> Path:
    """A folder in which the picture of the views is there, for it takes a second."""
    (run / "pictures").mkdir(parents=True)
    (run / "pictures" / "views.png").touch()
    return run


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    run = undrawn(tmp_path_factory.mktemp("whole") / "run")
    pretrain(order(pictures, run), Talk(quiet=True))
    return run


def end(run: Path) -> tuple[list[str], list[dict]]:
    """The last tensors, and the log without its times."""
    last = run / "checkpoints" / f"step-{TOTAL:08d}"
    sums = [reading.digest(last / f"{part}.safetensors") for part in ("model", "state")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sums, [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def attempt(job: Order, faulty: Faulty) -> BaseException | None:
    disk.system = faulty  # type: ignore[assignment]
    try:
        pretrain(job, Talk(quiet=True))
    except (Problem, Crash) as error:
        return error
    finally:
        disk.system = REAL
    return None


def holds(run: Path) -> int:
    """The newest whole checkpoint's step; nothing in the folder says more than there is."""
    folder = checkpoint.newest(run, pytest.fail)
    step = 0 if folder is None else checkpoint.verify(folder)["step"]
    state = Run(run).read_json("run.json") or {"status": "none"}
    report = Run(run).read_json("report.json")
    if state["status"] == "done":
        assert report is not None
    if report is not None:
        assert step == TOTAL
    return step


def faulted(pictures: Path, whole: Path, place: Path, fault: str | int, at: int) -> bool:
    """One run with a fault at call number `at`, then continued; False if it had no such call."""
    run = undrawn(place / f"{at}")
    faulty = Faulty(at, fault)
    ended = attempt(order(pictures, run), faulty)
    if faulty.dead:
        faulty.cut_power(run)
    if isinstance(ended, Problem):
        assert ended.exit in (Exit.RESOURCES, Exit.CHECKPOINT), ended.message
        assert str(run) in ended.message
    step = holds(run)
    if ended is None:
        assert step == TOTAL
    report = pretrain(order(pictures, run), Talk(quiet=True)).document
    if step < TOTAL:
        assert report["resumed_from"] == step
    assert (holds(run), end(run)) == (TOTAL, end(whole))
    shutil.rmtree(run)
    return faulty.count >= at


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_goes_on_after_a_fault_of_the_disk(fault, pictures, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "system", REAL)
    first = FAULTS.index(fault)
    for at in (1 + first, 130 + first, 310 + first, 490 + first):
        assert faulted(pictures, whole, tmp_path, fault, at)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_goes_on_after_every_fault(fault, pictures, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "system", REAL)
    at = 1
    while faulted(pictures, whole, tmp_path, fault, at):
        at += 1
    assert at > 500
    print(f"{fault}: {at - 1} places")


AUDITED = """
import os, sys
from pathlib import Path
run, seen = sys.argv[1], []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
def watch(event, arguments):
    writes = event in MOVES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
    if not writes or not os.fsdecode(arguments[0] if isinstance(arguments[0], (str, bytes, os.PathLike)) else "").startswith(run):
        return
    frame = sys._getframe(1)
    while frame is not None and "clctl" not in frame.f_code.co_filename:
        frame = frame.f_back
    where = "?" if frame is None else frame.f_code.co_filename
    seen.append((os.sep.join(("clctl", "store")) in where, event, str(arguments[0])))
from clctl.__main__ import main
import sklearn.datasets, matplotlib.figure, matplotlib.backends.backend_agg
sys.addaudithook(watch)
try:
    main(sys.argv[2:])
except SystemExit as left:
    assert not left.code, left.code
assert len(seen) > 30, seen
wrong = [one for one in seen if not one[0]]
assert not wrong, wrong
"""


@pytest.mark.parametrize("labels", [True, False])
def test_everything_in_a_runs_folder_is_written_by_the_store(labels, trained, tmp_path):
    """All labelled pictures are scored and recorded; the others get their neighbours drawn."""
    path, run = tmp_path / "set.npz", tmp_path / "run"
    rng = np.random.default_rng(0)
    known = {"labels": np.arange(40) % 2} if labels else {}
    np.savez(path, images=rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), **known)
    sets = [word for change in TINY for word in ("--set", change)]
    sets += ["--init-from", str(trained[0])] if labels else []
    sets[1] = "encoder.width=32"
    command = [sys.executable, "-c", AUDITED, str(run), "pretrain", "simclr", *sets]
    command += ["--data", str(path), "--out", str(run), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (run / "initial.safetensors").exists() == labels
    names = {"recipe.yaml", "recipe.resolved.json", "run.json", "report.json", "metrics.jsonl"}
    assert names <= set(os.listdir(run))


def test_a_folder_that_goes_away_is_told_and_not_made_again(pictures, tmp_path):
    run = undrawn(tmp_path / "run")

    class Removing(Faulty):
        def call(self, name, *arguments):
            if name == "rename" and str(arguments[1]).endswith("step-00000002"):
                done = super().call(name, *arguments)
                shutil.rmtree(run)
                return done
            return super().call(name, *arguments)

    ended = attempt(order(pictures, run), Removing())
    assert isinstance(ended, Problem)
    assert (ended.exit, str(run) in ended.message) == (Exit.RESOURCES, True)
    assert not run.exists()


def test_a_folder_that_was_replaced_is_not_written_to(tmp_path):
    run = Run(tmp_path / "run")
    run.open()
    with run.lock():
        run.log({"step": 1})
        run.folder.rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", run.folder)
        for act in (run.check, lambda: run.log({"step": 2}), lambda: run.write_json("a.json", {})):
            with pytest.raises(Problem, match="removed, or replaced") as caught:
                act()
            assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "run.vanished")
        assert [record["step"] for record in run.records()] == [1]


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A disk of 3 MB, where one may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_goes_on_with_room(small, pictures, whole):
    run = undrawn(small / "run")
    job = order(pictures, run)
    (small / "ballast").write_bytes(bytes(1_000_000))
    with pytest.raises(Problem) as caught:
        pretrain(job, Talk(quiet=True))
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "disk.full")
    assert "free " in (caught.value.suggestion or "")
    step = holds(run)
    assert 0 < step < TOTAL
    assert not list((run / "checkpoints").glob(".*"))
    (small / "ballast").unlink()
    report = pretrain(Order(job.recipe, (*job.overrides, "checkpoint.keep=1"), out=run), Talk(True))
    assert report.document["resumed_from"] == step
    assert end(run)[1] == end(whole)[1]


def test_a_read_only_disk_is_told_before_training(small, pictures):
    run = undrawn(small / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(Problem) as caught:
        pretrain(order(pictures, run), Talk(quiet=True))
    assert caught.value.exit == Exit.RESOURCES
    assert str(run) in caught.value.message


LIMITED = """
import resource, sys
from clctl.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
main(sys.argv[1:])
"""


def test_a_limit_on_the_size_of_files_is_told_as_what_it_is(pictures, tmp_path):
    run = undrawn(tmp_path / "run")
    sets = [w for change in order(pictures, run).overrides for w in ("--set", change)]
    command = [sys.executable, "-c", LIMITED, "pretrain", "simclr", *sets, "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 8, done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert holds(run) == 0
    assert json.loads((run / "run.json").read_text())["status"] == "failed: disk.full"
