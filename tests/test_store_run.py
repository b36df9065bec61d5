"""A run's folder: modes, links, the log, JSON documents, the lock, and kills."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clctl.console import Exit, Problem
from clctl.store import checkpoint, files, reading
from clctl.store.run import Run


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    run = Run(tmp_path / "run")
    before = os.umask(umask)
    try:
        run.open()
        run.log({"step": 1})
        for _ in range(2):  # the second replaces the first
            run.write_json("run.json", {})
            checkpoint.save(run.folder, 1, {"w": torch.ones(2)}, {}, {}, {})
    finally:
        os.umask(before)
    paths = list(run.folder.rglob("*"))
    assert len(paths) == 9
    for path in paths:
        expected = 0o777 & ~umask if path.is_dir() else mode
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "theirs").write_bytes(b"theirs")
    for name in ("a.json", "log"):
        (tmp_path / name).symlink_to("theirs")
    files.write(tmp_path / "a.json", b"ours")
    assert not (tmp_path / "a.json").is_symlink()
    with pytest.raises(Problem) as caught:
        files.append(tmp_path / "log", b"ours")
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "disk.not-writable")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


@pytest.mark.parametrize("place", ["void/a", "file/a"])
def test_a_missing_folder_is_a_problem_that_names_it(tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Problem, match=str(tmp_path / place)) as caught:
        files.write(tmp_path / place, b"x")
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "disk.no-folder")
    with pytest.raises(Problem, match="cannot be written"):
        files.make(tmp_path / "file" / "a")


def test_a_torn_last_line_is_neither_read_nor_kept(tmp_path):
    run = Run(tmp_path)
    log = tmp_path / "metrics.jsonl"
    assert run.records() == []
    run.log({"step": 1, "loss": float("nan"), "file": "caf\udce9"})
    with log.open("ab") as file:
        file.write(b'{"step": 2, "lo' + b"o" * 9000)
    assert run.records() == [{"step": 1, "loss": None, "file": "caf\udce9"}]
    run.log({"step": 3})
    assert [record["step"] for record in run.records()] == [1, 3]
    log.write_bytes(b"torn at once, and longer than a line")
    run.log({"step": 4})
    assert log.read_bytes() == b'{"step": 4}\n'
    with pytest.raises(ValueError, match="one line"):
        files.append(log, b"a\nb")
    with pytest.raises(ValueError, match="step"):
        run.log({"loss": 1.0})


def test_rewind_drops_later_records_only(tmp_path):
    run = Run(tmp_path)
    run.rewind(3)
    assert not run.folder.joinpath("metrics.jsonl").exists()
    for step in (1, 3, 5, 4):
        run.log({"step": step})
    run.rewind(3)
    assert [record["step"] for record in run.records()] == [1, 3]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 2}\n')
    for act in (run.records, lambda: run.rewind(1)):
        with pytest.raises(Problem, match="damaged at the line") as caught:
            act()
        assert caught.value.code == "run.damaged"


def test_nothing_is_made_before_open(tmp_path):
    run = Run(tmp_path / "runs" / "a")
    assert run.read_json("run.json") is None
    assert run.records() == []
    assert list(tmp_path.iterdir()) == []
    run.open()
    run.open()
    made = sorted(path.name for path in run.folder.iterdir())
    assert made == ["checkpoints", "evaluations", "pictures"]


def test_json_documents_come_back_and_damage_is_told(tmp_path):
    run = Run(tmp_path)
    run.write_json("run.json", {"schema": "clctl/run/1", "b": [1e-3, None], "ä": float("inf")})
    assert run.read_json("run.json") == {"schema": "clctl/run/1", "b": [0.001, None], "ä": None}
    for damage in (b"", b"[1]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": 1'):
        (tmp_path / "run.json").write_bytes(damage)
        with pytest.raises(Problem, match=r"run\.json is damaged") as caught:
            run.read_json("run.json")
        assert (caught.value.exit, caught.value.code) == (Exit.CHECKPOINT, "run.damaged")


HOLDER = """
import os, sys, time
from pathlib import Path
from clctl.store.run import Run
with Run(Path(sys.argv[1])).lock():
    child = sys.argv[2] == "fork" and os.fork() == 0
    if child or sys.argv[2] == "alone":
        print(os.getpid() if child else -1, flush=True)
    time.sleep(60)
"""


def held(folder: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", HOLDER, str(folder), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_lock_ends_with_its_process_though_its_children_live(tmp_path, how):
    process, child = held(tmp_path, how)
    try:
        with (
            pytest.raises(Problem, match=f"process {process.pid} on") as caught,
            Run(tmp_path).lock(),
        ):
            pytest.fail("two hold it")
        assert (caught.value.exit, caught.value.code) == (Exit.EXISTS, "run.locked")
        process.kill()
        process.wait()
        (tmp_path / ".run.json.12ab.tmp").write_bytes(b"left by the dead")
        with Run(tmp_path).lock():
            holder = json.loads((tmp_path / ".lock").read_bytes())
            assert holder["pid"] == os.getpid()
            assert os.listdir(tmp_path) == [".lock"]
    finally:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()
        if child > 0:
            os.kill(child, signal.SIGKILL)


def test_a_lock_is_released_by_its_block_and_exclusive_in_one_process(tmp_path):
    run = Run(tmp_path)
    with run.lock(), pytest.raises(Problem, match="in use by process"), run.lock():
        pytest.fail("two hold it")
    with run.lock():
        pass
    (tmp_path / ".lock").write_bytes(b"")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".lock").symlink_to("../metrics.jsonl")
    for folder in (tmp_path / "link", tmp_path / "void"):
        with pytest.raises(Problem) as caught, Run(folder).lock():
            pytest.fail("locked nothing")
        assert caught.value.exit == Exit.RESOURCES


def test_readers_of_growing_files_stop_at_their_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert reading.content(tmp_path / "a", 100) == b"x" * 100
    with pytest.raises(Problem, match="larger than 99 bytes"):
        reading.content(tmp_path / "a", 99)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Problem, match="not a regular file"):  # and it does not hang
        reading.digest(tmp_path / "pipe")


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from clctl.store import checkpoint
torch.set_num_threads(1)
run, clock = Path(sys.argv[1]), random.Random(3)
reader, writer = os.pipe()
step = 0
for _ in range(8):
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            full = lambda sign: {"w": torch.full((20_000,), float(sign * step))}
            checkpoint.save(run, step, full(1), full(-1), {}, {})
            os.write(writer, step.to_bytes(8, "little"))
            checkpoint.prune(run, 2)
    done = int.from_bytes(os.read(reader, 8), "little")  # it runs
    time.sleep(clock.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.set_blocking(reader, False)
    while True:
        try:
            done = int.from_bytes(os.read(reader, 8), "little")
        except BlockingIOError:
            break
    os.set_blocking(reader, True)
    said = []
    model, state, _, manifest = checkpoint.load(checkpoint.newest(run, said.append))
    step = manifest["step"]
    right = set(model["w"].tolist()) == {step} and set(state["w"].tolist()) == {-step}
    print(json.dumps({"done": done, "newest": step, "right": right, "said": said}))
"""


def test_kill_9_of_a_writer_leaves_the_last_save(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert (len(kills), done.stderr) == (8, "")
    for kill in kills:
        assert kill["newest"] in (kill["done"], kill["done"] + 1), kill
        assert kill["right"], kill
        assert kill["said"] == []
