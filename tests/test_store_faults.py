"""The store when disks fail, machines stop.

Every fault is tried at the 1st, 2nd, ... call that reaches the disk, until a save gets through.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clctl.console import Exit, Problem
from clctl.store import checkpoint, disk, files
from clctl.store.run import Run


class Quick(disk.System):
    """Without waiting for the disk: what is synced is noted, not done."""

    fsync = staticmethod(lambda handle: None)


REAL = Quick()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(disk, "system", REAL)


class Crash(BaseException):
    """The machine stopped."""


class Faulty:
    """The calls that reach the disk; call number `at` meets a fault. Notes what is not synced."""

    def __init__(self, at: int = 0, fault: str | int = 0) -> None:
        self.at, self.fault, self.count, self.dead = at, fault, 0, False
        self.unsynced: set[int] = set()  # files, by inode
        self.safe: dict[int, int] = {}  # of these, the bytes that were there at the last sync
        self.unlisted: set[int] = set()  # folders with new names in them

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: self.call(name, *arguments)

    def call(self, name: str, *arguments: Any) -> Any:
        if self.dead:
            raise Crash
        self.count += 1
        hit = self.count == self.at
        if hit and self.fault == "crash before":
            self.die()
        if hit and isinstance(self.fault, int):
            if name == "close":
                REAL.close(*arguments)
            raise OSError(self.fault, os.strerror(self.fault))
        if hit and name == "write":
            arguments = (arguments[0], arguments[1][: (len(arguments[1]) + 1) // 2])
        done = getattr(REAL, name)(*arguments)
        self.note(name, arguments, done)
        if hit and self.fault == "crash after":
            self.die()
        if hit and self.fault == "done, then an error":
            if name == "open":
                REAL.close(done)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return done

    def die(self) -> None:
        self.dead = True
        raise Crash

    def note(self, name: str, arguments: tuple[Any, ...], done: Any) -> None:
        if name == "write":
            self.unsynced.add(os.fstat(arguments[0]).st_ino)
        elif name == "fsync":
            status = os.fstat(arguments[0])
            self.unsynced.discard(status.st_ino)
            self.unlisted.discard(status.st_ino)
            self.safe[status.st_ino] = status.st_size
        elif name in ("mkdir", "rename") or (name == "open" and arguments[1] & os.O_CREAT):
            place = arguments[1] if name == "rename" else arguments[0]
            self.unlisted.add(Path(place).parent.stat().st_ino)
            if name == "open" and arguments[1] & os.O_EXCL:
                self.safe.pop(os.fstat(done).st_ino, None)  # an inode that another file had before

    def cut_power(self, folder: Path) -> None:
        """What was not synced is gone, although its name is there."""
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.unsynced:
                os.truncate(path, min(path.stat().st_size, self.safe.get(path.stat().st_ino, 0)))


def save(run: Path, step: int, note: str = "") -> Path:
    model = {"w": torch.full((4,), float(step)), "n": torch.tensor(step)}
    return checkpoint.save(run, step, model, {"s": torch.tensor(-step)}, {}, {"note": note})


def whole(run: Path) -> int:
    """The step of the newest whole checkpoint, whose content is that of its step."""
    folder = checkpoint.newest(run, lambda text: None)
    assert folder is not None
    model, state, _, manifest = checkpoint.load(folder)
    step = manifest["step"]
    assert model["w"].tolist() == [float(step)] * 4
    assert (model["n"].item(), state["s"].item()) == (step, -step)
    return step


FAULTS = [errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES]
FAULTS += ["short write", "done, then an error", "crash before", "crash after"]


def attempts(
    fault: str | int, act: Callable[[], object], home: Path
) -> Iterator[BaseException | None]:
    """Run `act` with the fault at each of its calls; gives what came of it, None where all went."""
    for at in range(1, 500):
        disk.system = faulty = Faulty(at, fault)  # type: ignore[assignment]
        ended: BaseException | None = None
        try:
            act()
        except (Problem, Crash) as error:
            ended = error
        finally:
            disk.system = REAL
        if faulty.dead:
            faulty.cut_power(home)
        if isinstance(ended, Problem):
            assert ended.exit == Exit.RESOURCES
            assert str(home) in ended.message
            if "cannot be written" in ended.message:
                assert "run the same command again" in (ended.suggestion or "")
        yield ended
        if faulty.count < at:
            assert at > 15
            return
    pytest.fail("it never got through")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_save_costs_at_most_that_save(tmp_path, fault):
    save(tmp_path, 1)
    seen = set()
    for ended in attempts(fault, lambda: save(tmp_path, 2), tmp_path):
        step = whole(tmp_path)
        assert step == 2 or (step == 1 and ended is not None)
        if isinstance(ended, Problem):
            assert not list((tmp_path / "checkpoints").glob(".*.tmp"))
        seen.add(step)
        save(tmp_path, 2)  # the same command again
        assert whole(tmp_path) == 2
        assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000001", "step-00000002"]
        files.remove(tmp_path / "checkpoints" / "step-00000002")
    assert seen == ({2} if fault == "short write" else {1, 2})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_the_only_checkpoint_is_replaced_loses_neither(tmp_path, fault):
    save(tmp_path, 2)
    for number, ended in enumerate(attempts(fault, lambda: save(tmp_path, 2, "new"), tmp_path)):
        assert whole(tmp_path) == 2
        if ended is None:
            found = checkpoint.newest(tmp_path, pytest.fail)
            assert found is not None
            assert checkpoint.verify(found)["note"] == "new"
        if number % 2:  # every other time on top of what the last fault left
            save(tmp_path, 2)
            assert os.listdir(tmp_path / "checkpoints") == ["step-00000002"]
            checkpoint.prune(tmp_path, 1)
        else:
            checkpoint.prune(tmp_path, 1)
            assert whole(tmp_path) == 2
            assert len(os.listdir(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize("fault", [*FAULTS[:2], *FAULTS[5:]])
def test_a_fault_while_old_ones_are_deleted_leaves_the_newest(tmp_path, fault):
    def prepare() -> None:
        for step in (1, 2, 3):
            save(tmp_path, step)

    prepare()
    for _ in attempts(fault, lambda: checkpoint.prune(tmp_path, 1), tmp_path):
        assert whole(tmp_path) == 3
        for folder in (tmp_path / "checkpoints").glob("step-*"):
            checkpoint.verify(folder)
        checkpoint.prune(tmp_path, 1)
        assert os.listdir(tmp_path / "checkpoints") == ["step-00000003"]
        prepare()


def test_after_a_save_nothing_waits_to_be_synced(tmp_path, monkeypatch):
    faulty = Faulty()
    monkeypatch.setattr(disk, "system", faulty)
    run = Run(tmp_path / "deep" / "run")
    run.open()
    run.log({"step": 1})
    assert faulty.unsynced
    folder = save(run.folder, 1)
    save(run.folder, 1)
    run.write_json("run.json", {})
    assert not faulty.unsynced
    left = {path.stat().st_ino: path for path in (tmp_path, *tmp_path.rglob("*"))}
    assert [left[inode] for inode in faulty.unlisted if inode in left] == []
    assert folder.is_dir()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_log_never_shows_half_a_line(tmp_path, fault):
    run = Run(tmp_path)
    run.log({"step": 0})
    steps = [0]
    for at in range(1, 9):
        disk.system = Faulty(at, fault)  # type: ignore[assignment]
        try:
            run.log({"step": at})
        except (Problem, Crash):
            pass
        finally:
            disk.system = REAL
        found = [record["step"] for record in run.records()]
        assert found in (steps, [*steps, at])
        run.log({"step": at + 100})
        steps = [record["step"] for record in run.records()]
        assert steps == [*found, at + 100]


def test_a_full_disk_is_told_with_what_to_free(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "system", Faulty(2, errno.ENOSPC))
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(Problem, match="No space left on device") as caught:
        files.write(tmp_path / "a", iter([b"x"]), need=free + 2_500_000_000)
    assert caught.value.code == "disk.full"
    megabytes = int((caught.value.suggestion or "").split()[1])
    assert megabytes == pytest.approx(2500, abs=500)
    assert os.listdir(tmp_path) == []


def test_a_read_error_is_damage_but_a_refusal_is_not(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    said: list[str] = []
    monkeypatch.setattr(disk, "system", Faulty(2, errno.EIO))
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / "checkpoints/step-00000001"
    assert "Input/output error" in said[0]
    monkeypatch.setattr(disk, "system", Faulty(1, errno.EACCES))
    with pytest.raises(Problem, match="Permission denied") as caught:
        checkpoint.newest(tmp_path, pytest.fail)
    assert caught.value.exit == Exit.RESOURCES
