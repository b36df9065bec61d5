"""What is said to people: problems as a compiler prints them, strict JSON, progress lines."""

import json
import math
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clctl import console
from clctl.console import Exit, Problem, Talk, clean, dump


def test_a_problem_with_a_place_is_printed_with_its_line_and_a_caret():
    problem = Problem(
        "unknown key `epoch`",
        Exit.RECIPE,
        "recipe.unknown-key",
        "did you mean `epochs`?",
        file="my.yaml",
        line=12,
        column=3,
        excerpt="  epoch: 10",
        width=5,
        others=(Problem("the second", Exit.RECIPE, "x", file="my.yaml", line=20),),
    )
    assert problem.text().splitlines() == [
        "error: unknown key `epoch`",
        "  --> my.yaml:12:3",
        "   12 |   epoch: 10",
        "      |   ^^^^^",
        "  help: did you mean `epochs`?",
        "error: the second",
        "  --> my.yaml:20",
    ]
    assert str(problem) == "unknown key `epoch`"


def test_a_problem_without_a_place_is_one_line_and_its_advice():
    assert Problem("no data", Exit.DATA, "data.none").text() == "error: no data"
    text = Problem("no data", Exit.DATA, "data.none", "give --data", file="a").text()
    assert text.splitlines() == ["error: no data", "  --> a", "  help: give --data"]
    bare = Problem("m", Exit.DATA, "c", file="a", line=1, column=2, excerpt="ab", width=0)
    assert bare.text().endswith("   1 | ab\n     |  ^")


def test_a_problem_as_json_has_every_key():
    problem = Problem("m", Exit.CHECKPOINT, "store.damaged", "s", file="f", line=3, column=4)
    assert problem.document() == {
        "code": "store.damaged",
        "exit": 5,
        "file": "f",
        "line": 3,
        "column": 4,
        "message": "m",
        "suggestion": "s",
    }
    absent = Problem("m", Exit.BUG, "bug").document()
    assert [key for key, value in absent.items() if value is None] == [
        "file",
        "line",
        "column",
        "suggestion",
    ]


def test_a_name_cannot_drive_the_terminal():
    hostile = "a\x1b[2Jb\x07\r\x9b31m\u202ec\ud800"
    assert clean(hostile) == "a�[2Jb��" + "�31m�c�"
    assert clean("naïve – 図.png\nnext") == "naïve – 図.png\nnext"
    text = Problem(
        hostile, Exit.DATA, "c", hostile, file=hostile, line=1, column=1, excerpt=hostile
    ).text()
    assert not set(text) & set("\x1b\x07\r\x9b\u202e\ud800")


@settings(deadline=None)
@given(st.text())
def test_clean_keeps_length_and_what_is_printable(text):
    found = clean(text)
    assert len(found) == len(text)
    assert all(
        b == a if a.isprintable() or a == "\n" else b == "�"
        for a, b in zip(text, found, strict=True)
    )


def test_dump_writes_null_for_what_json_has_no_word_for():
    document = {"a": math.nan, "b": [math.inf, (1.5, -math.inf)], 3: {"c": float("nan")}, "é": "ü"}
    assert dump(document, indent=None) == (
        '{"a": null, "b": [null, [1.5, null]], "3": {"c": null}, "é": "ü"}'
    )
    assert dump({"a": 1}) == '{\n  "a": 1\n}'
    with pytest.raises(TypeError):
        dump({"a": object()})


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(documents)
def test_dump_is_always_strict_json(document):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return b is None if isinstance(a, float) and not math.isfinite(a) else a == b

    assert same(document, json.loads(dump(document), parse_constant=refuse))


class Clock:
    """A clock that the test turns."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_off_a_terminal_a_task_has_dated_lines_with_a_heartbeat(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Talk().task("decode", 200) as show:
        for count, now in ((1, 0), (2, 3.9), (3, 4.0), (4, 23.9), (5, 24.1), (199, 30), (200, 31)):
            clock.now = 100.0 + now
            show(count, f"at {now}")
    found = lines(capsys)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    expected = ["3/200 1% at 4.0", "5/200 2% at 24.1", "200/200 100% at 31"]
    assert len(found) == 3
    for line, words in zip(found, expected, strict=True):
        assert re.fullmatch(f"{stamp} decode {re.escape(words)}", line)


def test_a_short_task_says_nothing(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Talk().task("decode", 10) as show:
        for count in range(11):
            clock.now += 0.3
            show(count, "")
    assert lines(capsys) == []


def test_a_task_without_a_total_does_not_divide_by_it(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Talk().task("decode", 0) as show:
        clock.now += 5
        show(0, "")
    assert [line.split(" ", 1)[1] for line in lines(capsys)] == ["decode 0/0 0%"]


def test_quiet_says_nothing(capsys, monkeypatch):
    clock, talk = Clock(monkeypatch), Talk(quiet=True)
    talk.say("words")
    with talk.task("decode", 3) as show:
        clock.now += 100
        show(3, "done")
    assert lines(capsys) == []
    assert not talk.live


def test_say_cleans_and_survives_a_narrow_encoding(capsys, monkeypatch):
    Talk().say("one\x1b[2J\ntwo")
    assert lines(capsys) == ["one�[2J", "two"]
    monkeypatch.setattr(type(sys.stderr), "encoding", "ascii", raising=False)
    Talk().say("σ ≈ 1")
    assert lines(capsys) == ["? ? 1"]


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_a_terminal_gets_a_live_bar(capsys, monkeypatch, term, live):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    talk = Talk()
    assert talk.live is live
    with talk.task("decode [red]", 3, done=1) as show:
        show(3, "a [bold]word\x1b[2J")
    shown = capsys.readouterr().err
    assert ("decode [red]" in shown) is live
    assert ("3/3" in shown) is live
    assert ("a [bold]word�[2J" in shown) is live
    assert "\x1b[2J" not in shown
