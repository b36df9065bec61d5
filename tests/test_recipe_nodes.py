"""YAML with positions: what a word means, what is refused, and where it is said to be."""

import time
from typing import Any

import pytest

from clctl.console import Exit, Problem
from clctl.recipe.nodes import MAX_BYTES, MAX_DEPTH, load, parse


def plain(text):
    node, problems = parse(text, "r.yaml")
    assert problems == []
    return node.plain()


def refused(text):
    """Every problem of a text as (code, line, column, width)."""
    try:
        _, problems = parse(text, "r.yaml")
    except Problem as problem:
        problems = [problem]
    assert all(p.exit == Exit.RECIPE and p.file == "r.yaml" for p in problems)
    return [(p.code, p.line, p.column, p.width) for p in problems]


NUMBERS = {
    "0": 0, "-0": 0, "7": 7, "+7": 7, "-12": -12, "9223372036854775807": 2**63 - 1,
    "-9223372036854775808": -(2**63),
    "1e-3": 0.001, "1E+3": 1000.0, "-2.5e2": -250.0, "1.": 1.0, ".5": 0.5, "-.5": -0.5, "0.10": 0.1,
    "1e-06": 1e-6, "1e+16": 1e16,
}  # fmt: skip


@pytest.mark.parametrize("word", NUMBERS)
def test_numbers_keep_their_kind(word):
    value = plain(f"a: {word}")["a"]
    assert value == NUMBERS[word]
    assert type(value) is type(NUMBERS[word])


@pytest.mark.parametrize(
    "word",
    [
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "On",
        "OFF",
        "010",
        "-01",
        "00",
        "0x1F",
        "0o17",
        "0b1",
        "1_000",
        "1:30",
        "2026-11-23",
        "01.5",
        "1e",
        "1e+",
        "+",
        "-",
        ".",
        "1.2.3",
        "tRue",
        "NuLL",
        "Infinity",
        "NaN",
        "inf",
    ],
)
def test_other_words_stay_as_written(word):
    value = plain(f"[{word}]" if word != "-" else '["-"]')[0]
    assert value == word
    assert type(value) is str


@pytest.mark.parametrize("word", ["", "~", "null", "Null", "NULL"])
def test_null(word):
    assert plain(f"a: {word}") == {"a": None}


def test_true_and_false_and_quotes():
    text = "[true, True, FALSE, 'true', \"1\", 'null']"
    assert plain(text) == [True, True, False, "true", "1", "null"]


def test_keys_are_text_as_written_and_merge_is_no_magic():
    text = "1: a\nnull: b\ntrue: c\n010: d\n<<: {e: f}\n"
    assert plain(text) == {"1": "a", "null": "b", "true": "c", "010": "d", "<<": {"e": "f"}}


def test_json_is_yaml():
    assert plain('"\\ud83d\\ude00\\u00e9"') == "😀é"
    assert plain('{"a":[1,2.5e-07,null],"b":{"c":"é☃😀"}}') == {
        "a": [1, 2.5e-7, None],
        "b": {"c": "é☃😀"},
    }


REFUSED = {
    "a: 1\nb: 2\n'a': 3\n": [("recipe.duplicate-key", 3, 1, 3)],
    "a: {b: 1, b: 2}": [("recipe.duplicate-key", 1, 11, 1)],
    "a: &x [1]\nb: *x\n": [("recipe.alias", 1, 4, 4), ("recipe.alias", 2, 4, 2)],
    "&x a: 1": [("recipe.alias", 1, 1, 4)],
    "a: !!python/object/apply:os.system [ls]": [("recipe.tag", 1, 4, 33)],
    "a: ! 1": [("recipe.tag", 1, 4, 3)],
    "a: !!int 1": [("recipe.tag", 1, 4, 7)],
    "? [a]\n: 1": [("recipe.key", 1, 3, 3)],
    "a: .inf\nb: -.INF\nc: .nan": [("recipe.number", n, 4, w) for n, w in ((1, 4), (2, 5), (3, 4))],
    "a: 1e999": [("recipe.number", 1, 4, 5)],
    "a: 9223372036854775808": [("recipe.number", 1, 4, 19)],
    "a: " + "9" * 5000: [("recipe.number", 1, 4, 5000)],
    'a: "\\ud800"': [("recipe.text", 1, 4, 8)],
    'a: "b\\0c"': [("recipe.text", 1, 4, 6)],
    '"\\udc00": 1': [("recipe.text", 1, 1, 8)],
    'a: "\\UFFFFFFFF"': [("recipe.yaml", 1, 7, 1)],
    'a: "\\U00110000"': [("recipe.yaml", 1, 7, 1)],
    "a: 1\n%YAML": [("recipe.yaml", 2, 6, 1)],
    f"%YAML {'9' * 5000}.1\n---\na: 1": [("recipe.yaml", 1, 7, 1)],
    "a: b: c": [("recipe.yaml", 1, 5, 1)],
    "a: [1, 2\nb: }": [("recipe.yaml", 2, 2, 1)],
    "a:\n\tb: 1": [("recipe.yaml", 2, 1, 1)],
    "a: é\x07": [("recipe.yaml", 1, 5, 1)],
    "a: 1\n---\nb: 2": [("recipe.documents", 2, 1, 3)],
    "a: " + "[" * 40 + "]" * 40: [("recipe.too-deep", 1, 4 + MAX_DEPTH - 1, 1)],
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:24])
def test_refused(text):
    assert refused(text) == REFUSED[text]


def test_depth_up_to_the_bound_is_read():
    inner = MAX_DEPTH - 2
    text = "a: " + "[" * inner + "1" + "]" * inner
    assert refused(text) == []
    assert [code for code, *_ in refused(f"a: [{text[3:]}]")] == ["recipe.too-deep"]


def test_duplicate_names_both_lines():
    _, (problem,) = parse("seed: 1\n\nseed: 2\n", "r.yaml")
    assert problem.message == "`seed` is given twice, first in line 1"
    assert (problem.line, problem.excerpt) == (3, "seed: 2")


def test_syntax_error_says_where_the_broken_list_began():
    with pytest.raises(Problem) as caught:
        parse("a: [1, 2\nb: }", "r.yaml")
    assert "from line 1" in caught.value.message
    assert caught.value.excerpt == "b: }"


def test_tab_gets_the_advice_for_tabs():
    with pytest.raises(Problem) as caught:
        parse("a:\n\tb: 1", "r.yaml")
    assert caught.value.suggestion == "indent with spaces, not tabs"


def test_places_of_values_and_keys():
    root: Any = parse("a:\n  bc: [10, {d: 'e f'}]\n", "r.yaml")[0]
    section = root.value["a"]
    entry = section.value["bc"]
    text = entry.value[1].value["d"]
    assert (section.key.line, section.key.column, section.key.width) == (1, 1, 1)
    assert (entry.key.line, entry.key.column, entry.key.width) == (2, 3, 2)
    assert (entry.place.line, entry.place.column, entry.place.width) == (2, 7, 16)
    assert (text.place.line, text.place.column, text.place.width) == (2, 16, 5)
    assert text.place.excerpt == "  bc: [10, {d: 'e f'}]"


def test_a_long_line_is_cut_or_left_out():
    wide: Any = parse(f"a: 1 # {'x' * 500}", "r.yaml")[0]
    assert len(wide.value["a"].place.excerpt) == 160
    far: Any = parse(f"{{b: '{'x' * 500}', a: 1}}", "r.yaml")[0]
    assert far.value["a"].place.excerpt is None
    assert far.value["a"].place.column == 512


def write(tmp_path, content):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    return path


FILES = {
    b"": ("recipe.empty", None, None),
    b"# only a comment\n": ("recipe.empty", None, None),
    b"---\n": ("recipe.empty", None, None),
    b"- 1\n- 2\n": ("recipe.not-a-mapping", 1, 1),
    b"just words": ("recipe.not-a-mapping", 1, 1),
    b"a: 1\nb: caf\xe9\n": ("recipe.not-utf8", 2, 7),
    "a: 1".encode("utf-16"): ("recipe.not-utf8", 1, 1),
    b"\x89PNG\r\n\x1a\n\0\0": ("recipe.not-utf8", 1, 1),
    b"PK\x03\x04": ("recipe.yaml", 1, 3),
    b"#" * (MAX_BYTES + 1): ("recipe.too-large", None, None),
}


@pytest.mark.parametrize("content", FILES, ids=lambda c: repr(c[:12]))
def test_files_that_are_no_recipe(tmp_path, content):
    with pytest.raises(Problem) as caught:
        load(write(tmp_path, content), "shown.yaml")
    problem = caught.value
    assert (problem.code, problem.line, problem.column) == FILES[content]
    assert (problem.file, problem.exit) == ("shown.yaml", Exit.RECIPE)


def test_largest_file_and_byte_order_mark_are_read(tmp_path):
    content = b"\xef\xbb\xbfa: 1\n"
    tree, problems = load(write(tmp_path, content + b"#" * (MAX_BYTES - len(content))), "r")
    assert (tree.plain(), problems) == ({"a": 1}, [])
    found: Any = tree.value
    assert (found["a"].place.column, found["a"].place.excerpt) == (4, "a: 1")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(Problem, match=r"there is no file nope\.yaml") as caught:
        load(tmp_path / "nope.yaml", "nope.yaml")
    assert caught.value.code == "recipe.not-found"
    with pytest.raises(Problem, match="cannot read") as caught:
        load(tmp_path, "folder")
    assert caught.value.code == "recipe.unreadable"


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "1," * 500_000 + "]",
        "[" * 1_000_000,
        "? " * 500_000,
        "a: &a [x]\nb: [" + "*a," * 300_000 + "]",
        "".join(f"k{i}: v\n" for i in range(90_000)),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_end_soon(text):
    begin = time.process_time()
    with pytest.raises(Problem) as caught:
        parse(text, "r.yaml")
    assert caught.value.code in ("recipe.too-large", "recipe.too-deep")
    assert time.process_time() - begin < 5
