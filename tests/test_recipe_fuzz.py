"""Any text, any file and any override end in a Recipe or a Problem; what is read is what was written."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.recipe import GOOD, Recipe

from clctl.console import Exit, Problem
from clctl.recipe import read as reader
from clctl.recipe.identity import resolved
from clctl.recipe.nodes import parse
from clctl.recipe.read import read

LINES = GOOD.splitlines(keepends=True)
WORDS = ["name", "train", "views.groups.0", "crop", "scale", "data", "path", "0", "lr", "x", ""]
SCRAPS = ["*a", "&a ", "!!x ", "[", "]", "{", "}", ": ", "- ", "\t", "\n", "'", '"', "#", "null", "1e999",
          "\\ud800", "\0", "é", "?", "|", ">", "%", "---\n", "\x85", "\u2028", "\ufeff", "<<", "9" * 30]  # fmt: skip

quick = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé0~:# ", max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _standins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reader, "Recipe", Recipe)
    monkeypatch.chdir(tmp_path)


def check(problem: Problem) -> None:
    for one in (problem, *problem.others):
        assert one.exit == Exit.RECIPE
        assert one.code.startswith("recipe.")
        assert one.message
        assert one.file is not None
        if one.excerpt is not None:
            assert one.line is not None
            assert one.column is not None
            assert 1 <= one.column <= len(one.excerpt) + 1
    json.dumps(problem.document())
    assert problem.text().startswith("error: ")


def judge(content: bytes, *overrides: str, data: str | None = None) -> None:
    Path("r.yaml").write_bytes(content)
    try:
        recipe = read(Path("r.yaml"), overrides, data)
    except Problem as problem:
        check(problem)
    else:
        Path("again.json").write_text(json.dumps(resolved(recipe)), encoding="utf-8")
        assert read(Path("again.json")) == recipe


@quick
@given(st.binary(max_size=200))
def test_any_bytes(content):
    judge(content)


@quick
@given(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=6), max_size=12).map("".join))
def test_any_text(text):
    judge(text.encode("utf-8", "surrogatepass"))


@quick
@given(st.data())
def test_a_damaged_recipe(data):
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        cut = data.draw(st.integers(0, len(line)))
        scrap = data.draw(st.sampled_from([*SCRAPS, *WORDS]))
        kind = data.draw(st.sampled_from(["insert", "delete", "double", "truncate", "dedent"]))
        if kind == "insert":
            lines[at] = line[:cut] + scrap + line[cut:]
        elif kind == "truncate":
            lines[at] = line[:cut]
        elif kind == "dedent":
            lines[at] = line.removeprefix("  ")
        else:
            lines[at] = "" if kind == "delete" else line * 2
    judge("".join(lines).encode("utf-8", "surrogatepass"))


@quick
@given(st.sampled_from([n for n, line in enumerate(LINES) if ": " in line]), values)
def test_any_value_in_any_place(at, value):
    lines = list(LINES)
    lines[at] = lines[at].partition(":")[0] + ": " + json.dumps(value, ensure_ascii=False) + "\n"
    judge("".join(lines).encode())


@quick
@given(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=5).map(".".join),
    values.map(json.dumps) | st.text(max_size=8),
    st.none() | st.text(max_size=8),
)
def test_any_override_and_any_data(key, value, data):
    judge(GOOD.encode(), f"{key}={value}", data=data)


def same(left: Any, right: Any) -> bool:
    """Equal, down to the types of numbers."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@quick
@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read_as_json_reads_it(value, ascii, indent):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    node, problems = parse(text, "r.json")
    assert problems == []
    assert same(node.plain(), value)
