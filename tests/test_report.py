"""clctl report: one page that holds together, says what it lacks and lets nothing through."""

import json
import math
import re
import shlex
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from clctl.commands import report as command
from clctl.commands._announce import history
from clctl.commands._report_verdict import Headline, _scored
from clctl.recipe.identity import resolved
from clctl.recipe.read import packaged, read
from clctl.report import charts
from clctl.report.curves import POINTS, Line, Mark, curve

VOID = {"meta", "link", "img", "br", "input", "hr"}
FILES = ("run.json", "recipe.resolved.json", "metrics.jsonl", "report.json")


class Page(HTMLParser):
    """What a test wants to know of a page; fails where a tag is not closed."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw, self.text = raw, raw.decode()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.cells: list[list[str]] = []
        self.code: list[str] = []
        self.feed(self.text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "code":
            self.code.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside in ("h1", "h2", "h3", "h4"):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if inside in ("td", "th"):
            self.cells[-1][-1] += data.replace("\xa0", " ")
        if inside == "code":
            self.code[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def holds_together(page: Page) -> None:
    """Everything that is true of every page."""
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert len(page.raw) < 5e6
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.elements if "href" in a and tag != "link"]
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(text.strip() for _, text in page.headings)
    for image in page.all("img"):
        assert (image["alt"] or "").strip()
        assert (image["src"] or "").startswith("data:image/")
    for drawing in page.all("svg"):
        assert "xmlns" not in drawing
        assert drawing["role"] == "img"
        assert drawing["aria-label"]
    assert all(a["scope"] in ("row", "col") for a in page.all("th"))
    assert page.elements[0] == ("html", {"lang": "en"})
    for landmark in ("header", "main", "nav", "footer", "title"):
        assert len(page.all(landmark)) == 1
    assert not [a for _, a in page.elements for key in a if key.startswith("on")]


@pytest.fixture
def bare(monkeypatch):
    """Pages without pictures, which take most of the time and have tests of their own."""
    monkeypatch.setattr(command, "pictures", lambda *_: [])


@pytest.fixture
def written(clctl, tmp_path):
    """Write a page: written(run, ...) -> the page, and the JSON document."""

    def write(*runs, code=0):
        out = tmp_path / "page.html"
        answer = clctl("report", *runs, "-o", out, "--json")
        assert answer.code == code, answer.err
        page = Page(out.read_bytes())
        holds_together(page)
        assert answer.document["bytes"] == len(page.raw)
        return page, answer.document

    return write


def run_folder(folder, status="done", records=6, **changes):
    """A run as clctl leaves it, without checkpoints; changes are laid over its documents."""
    recipe = resolved(read(packaged()["simclr"], ["train.epochs=3"]))
    folder.mkdir(parents=True)
    state = {
        "schema": "clctl/run/1",
        "identity": {"seed": 0, "data": {"name": "digits"}},
        "command": ["pretrain", "simclr", "--set", "train.epochs=3", "--json"],
        "status": status,
        "resumed_from": 0,
        "resumes": [],
    }
    outcome = {
        "schema": "clctl/pretrain/1",
        "status": "done",
        "metrics": {"top1": 0.9},
        "top1_ci95": [0.86, 0.93],
        "baselines": {"chance": 0.1, "pixels": 0.8, "random_init": 0.7, "initial": None},
        "seconds": 12.5,
    }
    lines = [
        {"step": 10 * i, "epoch": i / 2, "loss": 5 - i / 2, "loss_chance": 4.8, "lr": 0.1,
         "spread": 0.9, "feature_spread": 0.8, "feature_rank": 40.0, "images_per_second": 100.0}
        for i in range(1, records + 1)
    ]  # fmt: skip
    documents = {"run.json": state, "recipe.resolved.json": recipe, "report.json": outcome}
    for name, document in documents.items():
        document |= changes.get(name.split(".")[0], {})
        (folder / name).write_text(json.dumps(document))
    text = [json.dumps(line | changes.get("line", {})) + "\n" for line in lines]
    (folder / "metrics.jsonl").write_text("".join(text))
    if status != "done":
        (folder / "report.json").unlink()
    return folder


def test_the_page_of_a_real_run_is_whole_and_the_same_twice(trained, clctl, tmp_path):
    run, _ = trained
    pages = []
    for name in ("a.html", "b.html"):
        answer = clctl("report", run, "-o", tmp_path / name, "--json")
        assert answer.code == 0, answer.err
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    page, document = Page(pages[0]), answer.document
    holds_together(page)
    assert document["schema"] == "clctl/report/1"
    assert not [section for section in document["sections"] if section["missing"]]
    titles = [text for level, text in page.headings if level == 2]
    assert titles == [section["title"] for section in document["sections"]]
    assert {"views", "neighbours", "map", "confusion"} <= {s["slug"] for s in document["sections"]}
    assert ["train.epochs", "2", "40"] in page.cells
    top1 = json.loads((run / "report.json").read_text())["metrics"]["top1"]
    assert f"{100 * top1:.1f} % of 360 test pictures" in document["verdict"]["sentence"]


@pytest.mark.parametrize("damage", ["gone", "garbage", "other"])
@pytest.mark.parametrize("name", FILES)
def test_a_page_says_which_file_is_missing(name, damage, bare, written, tmp_path):
    run = run_folder(tmp_path / "run")
    if damage == "gone":
        (run / name).unlink()
    else:
        (run / name).write_bytes(b"\xff{]\n" if damage == "garbage" else b'{"step": 5, "x": [1]}\n')
    page, document = written(run)
    if damage == "other":
        return  # another document in its place: nothing fails, and what is missing is not shown
    assert name in page.text.partition("<nav")[0]
    empty = {s["slug"] for s in document["sections"] if s["missing"]}
    lacking = {
        "recipe.resolved.json": {"recipe"},
        "metrics.jsonl": {"curves"},
        "report.json": {"scores"},
    }
    assert empty == lacking.get(name, set())  # without run.json the recipe still tells the origin


def test_a_folder_with_half_of_everything_still_gives_a_page(trained, written, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "half")
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").unlink()
    next((run / "evaluations").glob("*.json")).write_text("{")
    page, document = written(run)
    missing = {s["slug"]: s["missing"] for s in document["sections"] if s["missing"]}
    assert {"map", "neighbours"} <= missing.keys()
    assert "checkpoint" in missing["map"]
    assert "is damaged" in page.text.partition("<nav")[0]


def test_what_is_no_run_is_refused(clctl, written, bare, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "page.html"
    for wrong in ("empty", "nothing"):
        answer = clctl("report", tmp_path / wrong, "-o", out)
        assert answer.code == 5
        assert wrong in answer.err
    run = run_folder(tmp_path / "run")
    assert clctl("report", run, "-o", tmp_path / "page.pdf").code == 2
    assert clctl("report", "-o", out).code == 2
    assert not out.exists()
    page, _ = written(run, tmp_path / "empty")
    assert "is not a run" in page.text


HOSTILE = '"><img src=x onerror=alert(1)>'
SCRIPT = "<script>alert(1)</script>"


def test_names_from_outside_stay_text(bare, written, tmp_path):
    run = run_folder(tmp_path / HOSTILE, run={"status": SCRIPT, "device": HOSTILE + "\x1b[31m"})
    (run / "evaluations").mkdir()
    scored = {
        "schema": "clctl/knn-eval/1",
        "metrics": {"top1": 0.9},
        "top1_ci95": [0.86, 0.93],
        "baselines": {"chance": 0.1},
        "data": {"name": SCRIPT, "test": "test", "test_images": 200},
        "checkpoint": {"sha256": "0", "step": 5},
        "protocol": {"name": SCRIPT, "k": 20},
        "per_class": [
            {"class": SCRIPT, "images": 3, "recall": r, "precision": 1} for r in (0.1, 1)
        ],
    }
    (run / "evaluations" / "knn-eval-x.json").write_text(json.dumps(scored))
    pages = [written(run)[0], written(run, run_folder(tmp_path / "$a_{b}$ _second"))[0]]
    for page in pages:
        assert page.headings[0][1] in (HOSTILE, "2 runs")
        assert not page.all("img")
        assert len(page.all("script")) == 1
        assert "\x1b" not in page.text
    assert SCRIPT in {row[0] for row in pages[0].cells}


@pytest.mark.parametrize(
    ("interval", "baselines", "tone", "word"),
    [
        ((0.90, 0.95), {"chance": 0.1, "pixels": 0.8, "random_init": 0.7}, "good", "It learned"),
        ((0.90, 0.95), {"pixels": 0.93, "random_init": 0.7}, "unsure", "not surely better than comp"),
        ((0.90, 0.95), {"pixels": 0.97, "random_init": 0.7}, "unsure", "raw pixels does better"),
        ((0.90, 0.95), {"pixels": 0.8, "random_init": 0.92}, "unsure", "No sure sign"),
        ((0.60, 0.65), {"pixels": 0.5, "random_init": 0.7}, "bad", "Worse than before"),
        ((0.60, 0.65), {"random_init": 0.5, "initial": 0.7}, "bad", "Worse than before"),
        ((0.08, 0.12), {"chance": 0.1, "random_init": 0.05}, "bad", "guessing"),
        ((0.48, 0.55), {"chance": 0.1, "majority": 0.5, "random_init": 0.3}, "bad", "guessing"),
        ((0.48, 0.55), {"chance": 0.1}, "unsure", "Better than guessing"),
    ],
)  # fmt: skip
def test_the_verdict_goes_by_the_interval(interval, baselines, tone, word):
    found = _scored(Headline("knn-eval", sum(interval) / 2, interval, 1000, baselines))
    assert found.tone == tone
    assert word in found.word
    assert f"{100 * interval[0]:.1f} %" in found.sentence
    assert "of 1,000 test pictures" in found.sentence


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("running", "still training or was cut off at step 60 of 60"),
        ("stopped by SIGTERM", "The run was stopped by SIGTERM at step 60"),
        ("failed: train.collapsed", "nearly the same answer"),
        ("failed: train.not-finite", "not finite"),
        ("failed: disk.full", "an error (disk.full)"),
    ],
)
def test_a_run_without_an_end_says_so(status, words, bare, written, tmp_path):
    _, document = written(run_folder(tmp_path / "run", status))
    assert words in document["verdict"]["sentence"]


def test_a_run_without_labels_is_judged_by_its_features(bare, written, tmp_path):
    reading = {"feature_spread": 0.4, "rank_me": 30.5}
    before = {"feature_spread_random_init": 0.3, "rank_me_random_init": 20.25}
    outcome = {"metrics": reading | before, "top1_ci95": None}
    page, document = written(run_folder(tmp_path / "run", report=outcome))
    assert document["verdict"]["word"].startswith("Not collapsed")
    assert ["end of training", "0.40", "0.30", "30.5", "20.2"] in page.cells
    outcome["metrics"] = {"feature_spread": 0.01, "rank_me": 1.5}
    _, document = written(run_folder(tmp_path / "point", report=outcome))
    assert document["verdict"]["word"] == "Collapsed"


def test_resumes_and_signs_of_collapse_are_marked(bare, written, tmp_path):
    first = {"spread": 0.9, "feature_spread": 0.8, "feature_rank": 40.0, "loss": 5.0}
    run = run_folder(
        tmp_path / "run",
        "failed: train.collapsed",
        records=12,
        run={"first": first, "resumes": [30, 50]},
        line={"spread": 0.01},
        recipe={"train": {"epochs": 20}},
    )
    page, _ = written(run)
    assert page.text.count("continued here after a stop") == 2
    assert "<li>Step 30: continued" in page.text
    # Warmup is a tenth of 400 steps; the warning comes at the third line after it.
    assert "<li>Step 70: this looks like collapse: the projections" in page.text
    assert "<li>Step 90: collapsed: the projections" in page.text


def test_history_keeps_the_resumes_that_lie_before():
    def told(known, start):
        run = SimpleNamespace(read_json=lambda name: known and {"resumes": known})
        guard = SimpleNamespace(first={"loss": 1.0})
        return history(SimpleNamespace(run=run, start=start, total=100, guard=guard))  # type: ignore[arg-type]

    assert told(None, 0) == {"first": {"loss": 1.0}, "resumes": []}
    assert told([20, 60], 40)["resumes"] == [20, 40]
    assert told([20], 100)["resumes"] == [20]


def test_the_command_is_quoted_and_makes_the_run_again(bare, written, tmp_path):
    typed = ["pretrain", "simclr", "--data", "my; rm -rf $x", "--out", "it's"]
    page, _ = written(run_folder(tmp_path / "a", run={"command": [*typed, "--json"]}))
    assert shlex.split(page.code[-1]) == ["clctl", *typed]
    continued = {"command": ["pretrain", "runs/a b"], "resumed_from": 30, "resumes": [30]}
    page, _ = written(run_folder(tmp_path / "a b", run=continued))
    again = shlex.split(page.code[-1])
    assert again[2] == "a b/recipe.resolved.json"
    assert "runs/a b" not in again


def test_several_runs_are_compared_on_the_same_pictures(trained, clctl, bare, written, tmp_path):
    run, _ = trained
    twin = shutil.copytree(run, tmp_path / "twin")
    page, document = written(run, twin)
    pair = clctl("compare", run, twin, "--json").document["differences"][0]
    assert pair["difference"] == 0
    low, high = (100 * end for end in pair["ci95"])
    row = ["twin against run", "not sure which", "+0.0", f"{low:+.1f} to {high:+.1f}"]
    assert row in [cells[:4] for cells in page.cells]
    assert document["verdict"]["word"] == "No sure difference"
    other = run_folder(tmp_path / "other", line={"loss": 1.0})
    page, document = written(run, twin, other)
    assert document["verdict"]["word"] == "Not compared on the same pictures"
    assert ["train.epochs", "2", "2", "3"] in page.cells
    assert page.text.count(">twin</text>") >= 6


def test_a_chart_is_the_same_twice_and_apart_from_others():
    def drawn(label):
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([0, 1, 2], [2, 0, 1], "o-", color=charts.SERIES[0], label=charts.plain(label))
        axes.set_title("name", color=charts.WRONG, gid="the-title")
        axes.legend(frameon=False)
        return figure

    first = charts.svg(drawn("a"), 'A "title"', "Described <here>")
    assert first == charts.svg(drawn("a"), 'A "title"', "Described <here>")
    assert charts.png(drawn("a")) == charts.png(drawn("a"))
    page = Page((first + charts.svg(drawn("_b $x$ <i>"), "Another", "Described")).encode())
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert ids.count("the-title") == 2
    rest = [i for i in ids if i != "the-title"]
    assert len(rest) == len(set(rest)) > 3
    for _, attributes in page.elements:
        reference = attributes.get("href") or attributes.get("clip-path") or ""
        assert not reference or reference.removeprefix("url(").strip("#)") in rest
    assert {"var(--s1)", "var(--wrong)"} <= set(re.findall(r"var\(--\w+\)", first))
    assert "#" not in "".join(a.get("style") or "" for _, a in page.elements)
    assert page.all("svg")[0]["aria-label"] == 'A "title". Described <here>'
    assert "_b $x$ &lt;i&gt;</text>" in page.text
    assert "xmlns" not in first


def test_a_long_log_keeps_its_peaks():
    y = np.sin(np.arange(50_000) / 7)
    y[31_234], y[44_444] = 9.0, math.nan
    figure = curve([Line("x", range(len(y)), y)], [], [Mark("resume", 5)], "step", False)
    line = figure.axes[0].lines[0]
    assert len(line.get_xdata()) <= 2 * POINTS + 3
    assert np.nanmax(line.get_ydata()) == 9.0
    assert np.isnan(line.get_ydata()).sum() == 1
    assert {0, len(y) - 1} <= set(np.asarray(line.get_xdata()).tolist())
