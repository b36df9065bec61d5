"""Names that would drive a terminal, a browser, a Markdown page or a shell are only ever shown."""

import html.parser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clctl.commands._compared import markdown
from clctl.data.layout import layout
from clctl.data.words import few, shown
from clctl.export._card import _plain

CLASSES = (
    "<script>alert(1)<∕script>",
    "$(touch x)`touch y`",
    "| [x](javascript:alert(1))",
    "[red]bold[∕red]",
    "\x1b[31mred\x07",
    "a\nerror: all is lost",
    "'\"&<img src=x onerror=alert(1)>",
)
RUN = "my run; rm -rf x"
TINY = ("--set", "train.epochs=1", "--set", "train.batch_size=16", "--set", "views.size=16",
        "--set", "encoder={name: resnet_small, width: 8}", "--set", "train.precision=fp32")  # fmt: skip
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Page(html.parser.HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures with such classes and file names, and a run on it."""
    here = tmp_path_factory.mktemp("names")
    for k, name in enumerate(CLASSES):
        folder = here / "data $(id)" / name
        folder.mkdir(parents=True)
        for i in range(5):
            seed = np.random.default_rng(10 * k + i)
            pixels = seed.integers(0, 256, (18, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}\x1b]0;t\x07<b>\n.png")
    return here


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_names_reach_no_terminal_and_no_page_as_code(clctl, here):
    done = clctl("pretrain", "folder", "--data", "data $(id)", "--out", RUN, *TINY)
    assert done.code == 0, done.err
    answers = {
        "pretrain": done,
        "scan": clctl("data", "scan", "data $(id)", "-o", "s.png"),
        "init": clctl("init", "data $(id)", "-o", "my $(id).yaml"),
        "knn-eval": clctl("knn-eval", RUN),
        "inspect": clctl("inspect", RUN),
        "gallery": clctl("neighbors", RUN, "-o", "g.html"),
        "sheet": clctl("neighbors", RUN, "-o", "g.png"),
        "embed": clctl("embed", RUN, "-o", "my f.npz"),
        "export": clctl("export", RUN, "--to", "safetensors", "-o", "ex"),
        "validate": clctl("validate", "my $(id).yaml"),
    }
    for name, answer in answers.items():
        assert answer.code == 0, (name, answer.err)
        assert not CONTROL.search(answer.out + answer.err), name
        lines = (answer.out + answer.err).splitlines()
        assert not any(line.startswith("error: ") for line in lines), name
    _commands(answers)
    _written(here)
    for command in (("knn-eval", RUN), ("inspect", RUN), ("data", "scan", "data $(id)")):
        found = clctl(*command, "--json")
        assert found.code == 0
        assert not CONTROL.search(found.out)
        assert json.loads(found.out)
    names = clctl("data", "scan", "data $(id)", "--json").document["classes"]
    assert set(names) == set(CLASSES)  # as data they are what they are
    assert not {"x", "y"} & {path.name for path in here.iterdir()}


def _commands(answers) -> None:
    """What is printed to be pasted is cut into words as it was meant."""
    wanted = {
        "pretrain": ["clctl", "linear-probe", RUN],
        "init": ["clctl", "pretrain", "my $(id).yaml"],
        "embed": ["clctl", "knn-eval", "my f.npz"],
    }
    for name, words in wanted.items():
        lines = answers[name].out.splitlines()
        found = [shlex.split(line[line.find("clctl ") :]) for line in lines if "clctl " in line]
        assert words in found, (name, found)
    assert "`clctl init 'data $(id)'`" in answers["scan"].out


def _written(here: Path) -> None:
    """Pages and cards that hold the names hold them as text."""
    text = (here / "g.html").read_text()
    page = Page(text)
    assert not {"script", "b:", "red"} & set(page.tags)
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert all(not (value or "").startswith("javascript") for _, value in page.attributes)
    assert "<script>alert(1)<∕script>" in page.words
    assert not CONTROL.search(text)
    card = next(here.glob("ex/**/README.md")).read_text()
    assert "[x](javascript" not in card
    assert not CONTROL.search(card)
    recipe = (here / "my $(id).yaml").read_text()
    assert not CONTROL.search(recipe)


def test_the_names_in_a_list_stay_on_one_line():
    assert few(["a", "b\nc", "d\x1be"]) == r"a, 'b\nc', 'd\x1be'"
    assert shown("é ✓") == "é ✓"
    plan = layout(["a\nb/1.png", "a\nb/2.png"], "auto")
    assert plan.labels_from.isprintable()


@pytest.mark.parametrize(
    "name", ["| [x](javascript:1) |", "<script>", "a\nb", "`x`", "\x1b[31m", "#1"]
)
def test_markdown_shows_a_name_as_it_is(name):
    for text in (_plain(name), _cell(name)):
        assert "\n" not in text
        assert not CONTROL.search(text)
        assert not re.search(r"(?<!\\)[`<>|\[\]#]", text)
        assert re.sub(r"\\(.)", r"\1", text) == name.replace("\n", " ").replace("\x1b", "�")


def _cell(name: str) -> str:
    """The name as a cell of the table for a pull request."""
    model = {"name": name, "top1": 0.5, "top1_ci95": (0.4, 0.6)}
    document = {"images": 9, "protocol": {"by": "knn"}, "models": [model], "differences": []}
    row = next(line for line in markdown(document).splitlines() if "0.5000" in line)
    return row.removeprefix("| ").removesuffix(" | 0.5000 | 0.4000 to 0.6000 |")


ODD = (
    (b"pretrain", b"folder", b"--data", b"caf\xe9"),
    (b"validate", b"caf\xe9.yaml"),
    (b"knn-eval", b"caf\xe9"),
    (b"pretrain", b"simclr", b"--set", b"caf\xe9=1"),
    (b"data", b"scan", b"caf\xe9"),
    (b"frobnicate\xff",),
)


@pytest.mark.parametrize("arguments", ODD)
def test_a_problem_with_bytes_that_are_no_text_is_one_json_document(
    clctl, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    answer = clctl(*map(os.fsdecode, arguments), "--json")
    assert answer.code in (2, 3, 4, 5), answer.err
    assert answer.document["exit"] == answer.code
    answer.err.encode()


@pytest.mark.parametrize("codec", ["utf-8", "ascii:surrogateescape"])
def test_it_is_for_every_codec_of_stdout(tmp_path, codec):
    command = [os.fsencode(sys.executable), b"-m", b"clctl", *ODD[1], b"--json"]
    environment = {**os.environ, "PYTHONIOENCODING": codec}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["code"] == "recipe.not-found"
