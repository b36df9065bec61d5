"""The live screen of training: its lines, and what a terminal of any width makes of them."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clctl.commands import _progress
from clctl.commands._live import BLOCKS, LETTERS, POINTS, Now, Trail, lines, meaning, plain_letters
from clctl.commands._stop import Stop
from clctl.console import Talk

LAST = {"step": 50, "loss": 2.4, "loss_chance": 4.84, "spread": 0.98, "knn": 0.9, "waiting": 0.01}
NOW = Now(
    name="simclr",
    step=50,
    total=176,
    left=754.0,
    saves=200.0,
    rate=1243.4,
    last=LAST,
    first={"knn": 0.4, "spread": 0.9},
    loss=[3 - i / 64 for i in range(60)],
    knn=[0.4, 0.6, 0.9],
)


def test_the_screen_at_eighty_columns():
    assert lines(NOW, 79, blocks=True) == [
        "simclr  ━━━━━━━━━━──────────────────────────  50/176  12 min 34 s to go  28.4 %",
        "loss    2.400, chance 4.84                       ███▇▇▇▇▆▆▆▆▅▅▅▅▄▄▄▄▃▃▃▃▃▂▂▂▂▁▁",
        "kNN     90.0 % within train, random-init 40.0 %  ▁▄█",
        "spread  0.98 (1 apart, 0 all alike), 1,243 images/s, waiting 1.0 %",
        "learning: loss well under chance, kNN above random-init",
        "saves in 3 min 20 s; Ctrl-C saves and stops",
    ]


def test_a_narrow_screen_has_fewer_fields_and_plain_letters_where_asked():
    found = lines(NOW, 39, blocks=False)
    assert found == [
        "simclr  50/176  12 min 34 s to go",
        "loss    2.400, chance 4.84   #*++=:--._",
        "kNN     90.0 % within train  _:#",
        "spread  0.98, 1,243 images/s",
        "learning: loss well under chance",
        "saves in 3 min 20 s",
    ]


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("name", ["m", "a-very-long-name-of-a-recipe-that-somebody-wrote"])
def test_no_line_is_wider_than_the_terminal(name, blocks):
    bare = {"loss": 1e9, "spread": 0.0, "waiting": 1.0}
    shown = [
        replace(NOW, name=name),
        replace(NOW, name=name, last=bare, loss=[], knn=[], first={}),
        replace(NOW, name=name, last={}, left=None, saves=None),
        replace(NOW, name=name, step=176, left=None),
    ]
    for now in shown:
        for width in range(1, 200):
            found = lines(now, width, blocks)
            assert all(len(line) <= width for line in found)
            assert all(line for line in found)
            assert blocks or all(line.isascii() for line in found)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({}, "the first figures come soon"),
        ({"loss": 4.8, "loss_chance": 4.84, "spread": 0.9}, "not yet: loss at chance"),
        ({"loss": 4.6, "loss_chance": 4.84, "spread": 0.9}, "begins to learn: loss under chance"),
        ({"loss": 2.0, "loss_chance": 4.84, "spread": 0.9}, "learning: loss well under chance"),
        (
            {"loss": 4.8, "loss_chance": 4.84, "spread": 0.9, "knn": 0.5},
            "learning: kNN above random-init, a loss near chance does no harm",
        ),
        ({"loss": 0.5, "spread": 0.9, "knn": 0.5}, "learning: kNN above random-init"),
        ({"loss": 0.5, "spread": 0.9, "knn": 0.41}, "not yet: kNN as random-init"),
        (
            {"loss": 0.5, "spread": 0.9},
            "no word yet, the loss of this method alone does not tell",
        ),
        (
            {"loss": 0.5, "spread": 0.01, "knn": 0.9},
            "not learning: all pictures look alike, the guard stops a collapse",
        ),
    ],
)
def test_what_the_figures_mean(last, words):
    assert ", ".join(meaning(replace(NOW, last=last))) == words


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 12345])
def test_a_curve_of_any_length_keeps_equal_distances(count):
    trail = Trail()
    for value in range(count):
        trail.add(float(value))
    assert len(trail.points) == count // trail.each
    assert len(trail.points) < POINTS
    assert trail.points[0] == (trail.each - 1) / 2
    assert all(b - a == trail.each for a, b in pairwise(trail.points))


def test_signs_of_a_curve():
    assert len(BLOCKS) == len(LETTERS)
    flat = replace(NOW, loss=[1.0] * 9, knn=[0.5])
    found = lines(flat, 79, blocks=True)
    assert found[1].endswith("  " + "▁" * 9)
    assert found[2].endswith("random-init 40.0 %")


@pytest.mark.parametrize(
    ("encoding", "lang", "everything", "plain"),
    [
        ("utf-8", "en_US.UTF-8", "", False),
        ("utf-8", "", "", False),
        ("utf-8", "C", "", True),
        ("utf-8", "C", "C.UTF-8", False),
        ("utf-8", "en_US.UTF-8", "POSIX", True),
        ("iso8859-1", "de_DE", "", True),
    ],
)
def test_letters_that_a_terminal_can_show(monkeypatch, encoding, lang, everything, plain):
    monkeypatch.setenv("LANG", lang)
    monkeypatch.setenv("LC_ALL", everything)
    assert plain_letters(encoding) is plain


class Terminal:
    """As much of one as the screen needs: lines that wrap, one line up, and erasing one."""

    def __init__(self, width: int) -> None:
        self.width, self.rows, self.at, self.column = width, [""], 0, 0

    def feed(self, text: str) -> "Terminal":
        for part in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|[^\x1b]", text):
            if part == "\x1b[1A":
                self.at -= 1
            elif part == "\x1b[2K":
                self.rows[self.at] = ""
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self._down()
            elif part[0] != "\x1b":
                if self.column == self.width:
                    self._down()
                    self.column = 0
                row = self.rows[self.at].ljust(self.column)
                self.rows[self.at] = row[: self.column] + part + row[self.column + 1 :]
                self.column += 1
        return self

    def _down(self) -> None:
        self.at += 1
        if self.at == len(self.rows):
            self.rows.append("")


SHOW = """
import time
from dataclasses import replace
from clctl.commands._live import Now, screen
from clctl.console import Talk
last = {"step": 50, "loss": 2.4, "loss_chance": 4.84, "spread": 0.98, "knn": 0.9, "waiting": 0.01}
now = Now("simclr", 0, 176, 754.0, 200.0, 1243.4, last, {"knn": 0.4}, loss=[3, 2, 1], knn=[0, 1])
talk = Talk()
assert talk.live
with screen(now) as show:
    for step in range(4):
        show(replace(now, step=50 + step))
        time.sleep(0.3)
        if step == 1:
            talk.say("warning: something is said meanwhile")
talk.say("after")
"""


def on_a_terminal(width: int, command: list[str], resize: int | None = None, **env: str) -> str:
    """What a command writes to a terminal as its stderr."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment = {**clean, "TERM": "xterm", "LC_ALL": "C.UTF-8", **env}
    written = b""
    with subprocess.Popen(
        command, stdin=there, stdout=subprocess.DEVNULL, stderr=there, env=environment
    ) as process:
        os.close(there)
        while True:
            try:
                part = os.read(here, 65536)
            except OSError:  # Linux tells so that the other end is closed
                break
            written += part
            if resize is not None and b"meanwhile" in written:
                fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 30, resize, 0, 0))
                resize = None
    os.close(here)
    assert process.returncode == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_terminal_shows_one_screen_and_what_was_said_above_it(width):
    written = on_a_terminal(width, [sys.executable, "-c", SHOW])
    rows = [row.rstrip() for row in Terminal(width).feed(written).rows]
    now = replace(NOW, step=53, loss=[3, 2, 1], knn=[0, 1], first={"knn": 0.4})
    screen = lines(now, width - 1, blocks=True)
    assert [row for row in rows if row] == [
        "warning: something is said meanwhile",
        *screen,
        "after",
    ]
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1


def test_a_terminal_without_colours_or_letters_gets_none():
    written = on_a_terminal(80, [sys.executable, "-c", SHOW], LC_ALL="", LANG="C", NO_COLOR="1")
    assert written.isascii()
    assert not re.search(r"\x1b\[[0-9;]*m", written)
    assert "loss    2.400, chance 4.84                       #=_" in written


@pytest.mark.parametrize("other", [40, 160])
def test_a_terminal_that_is_resized_gets_its_new_width(other):
    written = on_a_terminal(80, [sys.executable, "-c", SHOW], resize=other)
    later = written.split("meanwhile")[1]
    screens = [part for part in re.split(r"(?:\x1b\[1A\x1b\[2K)+", later) if "53/176" in part]
    expected = lines(replace(NOW, step=53), other - 1, blocks=True)[0]
    assert expected in screens[-1]


def test_a_dumb_terminal_is_none(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert not Talk().live


def fake(records=(), first=None, every_steps=None) -> Any:
    """As much of a trainer as its progress looks at: 100 steps of 2 s, at 40, a score every 20."""
    recipe = SimpleNamespace(
        name="toy", checkpoint=SimpleNamespace(every_minutes=10.0, every_steps=every_steps)
    )
    return SimpleNamespace(
        recipe=recipe,
        talk=Talk(),
        where=SimpleNamespace(device=torch.device("cpu")),
        about={"init_from": None},
        guard=SimpleNamespace(first=first or {}),
        run=SimpleNamespace(records=lambda: list(records)),
        score_due=lambda step: step % 20 == 0,
        last=dict(records[-1]) if records else {},
        total=100,
        done=40,
        steps_taken=10,
        steps_seconds=20.0,
        images_per_second=64.0,
    )


@contextmanager
def watched(trainer, monkeypatch, unsaved=0.0):
    """The progress of a trainer with its screens: the function to call, and what was shown."""
    shown: list[Now] = []

    @contextmanager
    def screen(first):
        shown.append(first)
        yield shown.append

    monkeypatch.setattr(_progress, "screen", screen)
    trainer.talk.live = True
    stop: Any = SimpleNamespace(unsaved=unsaved)
    with _progress.progress(trainer, stop) as step:
        yield step, shown


def test_the_screen_is_read_off_the_log_and_the_trainer(monkeypatch):
    log = [{"step": s, "loss": 5.0 - s / 10, "spread": 0.9, "waiting": 0.0} for s in (10, 20, 30)]
    log[1]["knn"] = 0.5
    trainer = fake(log, {"knn": 0.25})
    with watched(trainer, monkeypatch) as (step, shown):
        assert (shown[0].loss, shown[0].knn) == ([4.0, 3.0, 2.0], [0.25, 0.5])
        assert shown[0].last["knn"] == 0.5
        for at, more in ((40, {"knn": 0.75}), (50, {"knn": 0.75}), (60, {"knn": 0.75})):
            trainer.last = {**log[0], "step": at, "loss": 1.0, **more}  # 50 repeats that of 40
            trainer.done = at
            step()
            step()
    assert (shown[-1].step, shown[-1].total, shown[-1].left) == (60, 100, 80.0)
    assert shown[-1].loss == [4.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert shown[-1].knn == [0.25, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("every_steps", "unsaved", "done", "saves"),
    [(None, 0.0, 40, None), (None, 500.0, 40, 100.0), (30, 500.0, 40, 40.0), (30, 700.0, 40, 0.0)],
)
def test_when_it_saves_next(monkeypatch, every_steps, unsaved, done, saves):
    trainer = fake(every_steps=every_steps)
    trainer.done = done
    with watched(trainer, monkeypatch, unsaved) as (_, shown):
        assert shown[0].saves == saves


def test_off_a_terminal_there_are_lines_and_the_forecast(capsys, monkeypatch):
    trainer, stop = fake(), Stop(None)
    trainer.talk.FIRST = 0.0
    with _progress.progress(trainer, stop) as step:
        for _ in range(5):
            trainer.done += 1
            trainer.steps_seconds += 2.0
            step()
    said = capsys.readouterr().err
    assert re.search(r"measured  1 min 50 s to go|measured  110 s to go", said)
    assert "toy step 41/100 41%" in said
    assert "\x1b" not in said


@pytest.mark.soak
def test_a_run_on_a_terminal_from_its_start_to_its_end(tmp_path):
    command = [sys.executable, "-m", "clctl", "pretrain", "simclr", "--set", "train.epochs=2"]
    written = on_a_terminal(80, [*command, "--out", str(tmp_path / "run")])
    rows = Terminal(80).feed(written).rows
    assert sum("44/44  100.0 %" in row for row in rows) == 1
    assert sum(row.startswith("kNN     ") and "random-init" in row for row in rows) == 1
    assert sum(row.rstrip() == "saved" for row in rows) == 1
