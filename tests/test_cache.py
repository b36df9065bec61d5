"""The cache of decoded pictures: its limit, what is in use, ls and clear, several processes."""

import gc
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clctl.console import Exit, Problem
from clctl.data import cache, entries
from clctl.data.decode import Bounds
from clctl.data.open import load
from clctl.data.scan import scan
from clctl.data.sources import folder as source

SIDE = 16
OPEN = (
    "import sys\n"
    "from clctl.data.cache import decoded\n"
    "from clctl.data.decode import Bounds\n"
    "from clctl.data.scan import scan\n"
    "store = decoded(scan(sys.argv[1]).files, Bounds(64, 1.5), lambda t: print(t, flush=True))\n"
    "print('open', len(store.rows), flush=True)\n"
)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def fill(folder: Path, count: int = 6, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        picture = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def store(folder: Path, said: list[str] | None = None, verify: bool = False) -> cache.Store:
    said = [] if said is None else said
    return cache.decoded(scan(str(folder)).files, Bounds(64, 1.5), said.append, str(folder), verify)


def keep(folder: Path, used: int) -> Path:
    """Store the pictures of a folder and let go of them; gives the store, last used in `used`."""
    before = set(kept())
    store(folder)
    gc.collect()
    (path,) = set(kept()) - before
    os.utime(path / "index.json", (used, used))
    return path


def kept() -> list[Path]:
    return [entry.path for entry in entries.entries()]


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the store of a folder open."""
    script = f"{OPEN}sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while not process.stdout.readline().startswith("open"):
            assert process.poll() is None
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("200m", 200 * 10**6),
        ("4GiB", 4 * 2**30),
        ("7k", 7000),
        ("123", 123),
        ("0", 0),
    ],
)
def test_the_limit_is_a_size(monkeypatch, text, size):
    monkeypatch.setenv("CLCTL_CACHE_LIMIT", text)
    assert entries.limit() == size


@pytest.mark.parametrize("text", ["many", "-1GB", "5 apples", "GB", "1e9", "3i", "nan"])
def test_a_limit_that_is_no_size_is_told_before_anything_is_decoded(
    tmp_path, home, monkeypatch, text
):
    monkeypatch.setenv("CLCTL_CACHE_LIMIT", text)
    with pytest.raises(Problem, match=f"CLCTL_CACHE_LIMIT is {text}") as caught:
        store(fill(tmp_path / "data"))
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "cache.limit")
    assert not home.exists()


def test_without_a_limit_it_is_half_of_the_disk(tmp_path, home, monkeypatch):
    monkeypatch.delenv("CLCTL_CACHE_LIMIT", raising=False)
    disk = os.statvfs(tmp_path)
    assert entries.limit() == disk.f_blocks * disk.f_frsize // 2


def test_the_one_unused_for_longest_goes_first(tmp_path, home, monkeypatch):
    paths = {
        name: keep(fill(tmp_path / name, seed=i), used)
        for i, (name, used) in enumerate((("new", 3000), ("old", 1000), ("middle", 2000)))
    }
    one = entries.entries()[0].bytes
    monkeypatch.setenv("CLCTL_CACHE_LIMIT", str(3 * one + 100))
    said: list[str] = []
    fresh = store(fill(tmp_path / "fresh", seed=9), said)
    assert set(kept()) > {paths["new"], paths["middle"]}
    assert not paths["old"].exists()
    assert len(kept()) == 3
    assert len([line for line in said if "removed the pictures of old" in line]) == 1
    assert "last used 1970-01-01" in said[-1]
    assert int(fresh.images.canvas.sum()) > 0


def test_opening_is_using(tmp_path, home):
    old, new = (keep(fill(tmp_path / name, seed=i), 1000 + i) for i, name in enumerate("ab"))
    assert kept() == [new, old]
    before = datetime.now(UTC)
    store(tmp_path / "a")
    assert kept() == [old, new]
    assert (before - entries.entries()[0].used).total_seconds() < 2


def test_what_another_process_has_open_is_never_removed(tmp_path, home, monkeypatch):
    busy = keep(fill(tmp_path / "busy"), 1000)
    idle = keep(fill(tmp_path / "idle", seed=1), 2000)
    monkeypatch.setenv("CLCTL_CACHE_LIMIT", "1kB")
    with another_process(tmp_path / "busy"):
        os.utime(busy / "index.json", (1000, 1000))
        assert [entry.in_use for entry in entries.entries()] == [False, True]
        assert not entries.remove(busy)
        said: list[str] = []
        held = store(fill(tmp_path / "fresh", seed=2), said)
        assert not idle.exists()
        assert busy.exists()
        assert "all of it in use" in said[-1]
        assert len(kept()) == 2
        del held
    gc.collect()
    assert [entry.in_use for entry in entries.entries()] == [False, False]
    assert entries.remove(busy)
    assert not busy.exists()
    assert not list(home.glob("*.partial"))


def test_it_is_in_use_as_long_as_a_tensor_over_it_lives(tmp_path, home):
    part = store(fill(tmp_path / "data")).images.canvas[2:4]
    gc.collect()
    (entry,) = entries.entries()
    assert entry.in_use
    assert not entries.remove(entry.path)
    assert int(part.sum()) > 0
    del part
    gc.collect()
    assert not entries.entries()[0].in_use


def test_what_a_remover_that_died_left_is_swept_and_never_read(tmp_path, home):
    path = keep(fill(tmp_path / "data"), 1000)
    os.rename(path, path.with_name(f"{path.name}.0badcafe.partial"))
    assert kept() == []
    said: list[str] = []
    store(tmp_path / "data", said)
    assert "decoding 6 pictures" in said[0]
    assert not list(home.glob("*.partial"))
    assert kept() == [path]


def test_two_processes_build_one_store_once(tmp_path, home):
    folder = fill(tmp_path / "data", 40)
    script = OPEN.replace(
        "store =",
        "from clctl.data import build\n"
        "real = build._lay_out\n"
        "def slow(*rest):\n"
        "    print('building', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return real(*rest)\n"
        "build._lay_out = slow\n"
        "store =",
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        processes = (first, second)
        heard = {process: [] for process in processes}
        for process in processes:
            while not heard[process] or not re.search("building|waiting", heard[process][-1]):
                heard[process].append(process.stdout.readline())
        builder, waiter = sorted(processes, key=lambda p: "waiting" in heard[p][-1])
        assert "building" in heard[builder][-1]
        assert "waiting" in heard[waiter][-1]
        assert kept() == []  # a store that is half built is none
        builder.stdin.write("\n")
        builder.stdin.flush()
        assert builder.stdout.read().endswith("open 40\n")
        assert waiter.stdout.read() == "open 40\n"  # and built nothing
    assert len(kept()) == 1


def test_a_builder_that_is_killed_lets_the_waiting_one_build(tmp_path, home):
    folder = fill(tmp_path / "data", 12)
    stuck = OPEN.replace(
        "store =",
        "from clctl.data import build\n"
        "def stop(*rest):\n"
        "    print('building', flush=True)\n"
        "    sys.stdin.readline()\n"
        "build._lay_out = stop\n"
        "store =",
    )
    command, said, found = [sys.executable, "-c", stuck, str(folder)], list[str](), []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        while builder.stdout.readline() != "building\n":
            assert builder.poll() is None
        waiter = threading.Thread(target=lambda: found.append(store(folder, said)))
        waiter.start()
        while not said:
            time.sleep(0.01)
        assert "waiting" in said[0]
        builder.send_signal(signal.SIGKILL)
        waiter.join(60)
    assert len(found[0].rows) == 12
    assert not list(home.glob("*.partial"))


def swap(folder: Path) -> None:
    """Change a picture, but neither its size nor its time."""
    path = folder / "3.png"
    before = path.stat()
    with Image.open(path) as image:
        negative = Image.fromarray(255 - np.asarray(image))
    negative.save(path)  # noise: it takes as many bytes
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_changed_content_is_noticed_when_verified(tmp_path, home):
    folder = tmp_path / "data"
    fill(folder)
    first = store(folder)
    said: list[str] = []
    assert store(folder, said, verify=True).digests == first.digests
    assert not any("decoding" in line for line in said)
    swap(folder)
    assert store(folder).digests == first.digests  # neither size nor time tells
    again = store(folder, said, verify=True)
    assert [a == b for a, b in zip(first.digests, again.digests, strict=True)] == [
        i != 3 for i in range(6)
    ]
    assert any("content of pictures has changed" in line for line in said)
    assert (again.images.canvas[3] == 255 - first.images.canvas[3]).all()
    assert store(folder).digests == again.digests
    assert len(kept()) == 1


def test_verify_is_a_key_of_the_recipe(tmp_path, home):
    folder = fill(tmp_path / "data")
    quick = source.Config(path=str(folder))
    slow = source.Config(path=str(folder), verify=True)
    before = load(quick, 16, lambda line: None).fingerprint
    swap(folder)
    assert load(quick, 16, lambda line: None).fingerprint == before
    assert load(slow, 16, lambda line: None).fingerprint != before


def test_ls(clctl, tmp_path, home):
    assert f"nothing is kept in {home.parent}" in clctl("cache", "ls").out
    path = keep(fill(tmp_path / "photos", 5), 10**9)
    answer = clctl("cache", "ls", "--json")
    assert answer.code == 0
    assert answer.document["schema"] == "clctl/cache/1"
    (entry,) = answer.document["entries"]
    size = sum(file.stat().st_size for file in path.iterdir())
    assert entry == {
        "name": "photos",
        "origin": str(tmp_path / "photos"),
        "pictures": 5,
        "bytes": size,
        "last_used_utc": "2001-09-09T01:46:40+00:00",
        "in_use": False,
        "path": str(path),
    }
    assert answer.document["bytes"] == size
    head, row, last = clctl("cache", "ls").out.splitlines()
    assert head.split()[:3] == ["name", "pictures", "size"]
    assert row.split()[:2] == ["photos", "5"]
    assert row.endswith(str(path))
    assert "CLCTL_CACHE_LIMIT" in last


def test_clear_by_name_and_all(clctl, tmp_path, home):
    paths = {name: keep(fill(tmp_path / name, seed=i), 1000) for i, name in enumerate("abc")}
    answer = clctl("cache", "clear", "a", paths["b"], "--yes", "--json")
    assert answer.code == 0
    assert {entry["name"] for entry in answer.document["removed"]} == {"a", "b"}
    assert kept() == [paths["c"]]
    assert len(list((tmp_path / "a").iterdir())) == 6
    assert clctl("cache", "clear", "--yes", "-q").out == "1\n"
    assert list(home.iterdir()) == []
    assert "nothing is kept" in clctl("cache", "clear", "--yes").out


def test_clear_refuses_what_it_does_not_know_and_what_is_in_use(clctl, tmp_path, home):
    busy, idle = (keep(fill(tmp_path / n, seed=i), 1000) for i, n in enumerate(("busy", "idle")))
    answer = clctl("cache", "clear", "photos", "--yes")
    assert answer.code == 2
    assert "the cache holds no photos; it holds: busy, idle" in answer.err
    held = store(tmp_path / "busy")
    answer = clctl("cache", "clear", "idle", "busy", "--yes")
    assert answer.code == 6
    assert "busy is in use" in answer.err
    assert set(kept()) == {busy, idle}
    answer = clctl("cache", "clear", "--yes")
    assert answer.code == 0
    assert "left alone, as it is in use: busy" in answer.out
    assert kept() == [busy]
    assert int(held.images.canvas.sum()) > 0


def test_clear_without_yes_asks_on_a_terminal_only(clctl, tmp_path, home, monkeypatch):
    path = keep(fill(tmp_path / "photos"), 1000)
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        answer = clctl("cache", "clear")
    assert answer.code == 2
    assert "--yes" in answer.err
    assert path.exists()
    for word, left in (("\n", True), ("n\n", True), ("y\n", False)):
        terminal, other = pty.openpty()
        with open(other) as keys, open(terminal, "w") as person:
            monkeypatch.setattr("sys.stdin", keys)
            person.write(word)
            person.flush()
            answer = clctl("cache", "clear")
        assert answer.code == 0
        assert "remove 1 store of" in answer.err
        assert path.exists() == left
