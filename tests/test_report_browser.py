"""The report page in a browser: nothing fetched, no error, no sideways scrolling, usable by keyboard."""

import shutil

import pytest
from chromium import Chromium, browser
from conftest import photographs

WIDTHS = (360, 1440)

pytestmark = pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    path = browser()
    assert path is not None
    started = Chromium(path, tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    """A page of one run with all its pictures, and one of two runs."""
    from clctl.commands.report import Order, report
    from clctl.console import Talk

    folder, run = tmp_path_factory.mktemp("pages"), str(trained[0])
    cache = pytest.MonkeyPatch()
    with cache.context() as patch:
        patch.setenv("CLCTL_CACHE", str(folder / "cache"))
        report(Order((run,), folder / "one.html"), Talk(quiet=True))
        report(Order((run, run), folder / "two.html"), Talk(quiet=True))
    return folder


def calm(chromium, page, width, dark):
    """Opens without a word, a request, sideways scrolling or a broken picture, in its colours."""
    address = page.as_uri()
    chromium.open(address, width, dark=dark)
    chromium.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    told = [
        params
        for method, params in chromium.events
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    assert told == []
    asked = [p["request"]["url"] for m, p in chromium.events if m == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [address]
    root = "document.documentElement"
    assert chromium.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    colour = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = int(colour.removeprefix("rgb(").partition(",")[0])
    assert shade < 64 if dark else shade > 192
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert chromium.evaluate(broken) == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_a_page_is_calm(name, width, dark, chromium, pages):
    calm(chromium, pages / name, width, dark)


def test_texts_stand_out_from_the_page(chromium, pages):
    """WCAG's contrast of 4.5 for every colour that text has, on light and on dark."""
    script = """(() => {
      const canvas = document.createElement("canvas").getContext("2d");
      const light = (name) => {
        canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        const parts = [1, 3, 5].map((i) => parseInt(canvas.fillStyle.slice(i, i + 2), 16) / 255);
        const [r, g, b] = parts.map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const names = ["ink", "faint", "link", "wrong", "right", "unsure"].map((n) => `--${n}`);
      return names.flatMap((n) => ["--paper", "--card"].map((p) => ratio(light(n), light(p))));
    })()"""
    for dark in (False, True):
        chromium.open((pages / "two.html").as_uri(), 800, dark=dark)
        assert min(chromium.evaluate(script)) >= 4.5


def test_the_keyboard_reaches_the_report_and_the_command(chromium, pages):
    chromium.open((pages / "one.html").as_uri(), 1440)
    chromium.press("Tab", 9)
    assert chromium.evaluate("document.activeElement.className") == "skip"
    assert chromium.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    button = "document.querySelector('#origin .copy')"
    chromium.evaluate(f"{button}.focus()")
    assert chromium.evaluate(f"getComputedStyle({button}).display") != "none"
    chromium.evaluate(f"{button}.click()")
    chromium.evaluate("new Promise(done => setTimeout(done, 200))")
    said = chromium.evaluate("document.querySelector('#origin .said').textContent")
    assert said.startswith(("Copied", "Selected"))


def test_without_a_script_everything_is_there(chromium, pages):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open((pages / "one.html").as_uri(), 800)
        text = chromium.evaluate("document.querySelector('#origin code').textContent")
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    assert text.startswith("clctl pretrain simclr")


@pytest.fixture(scope="module")
def kinds(trained, tmp_path_factory):
    """Runs that came out in other ways: their folders by name."""
    from clctl.commands.pretrain import Order, pretrain
    from clctl.console import Talk
    from clctl.store.run import Run

    place = tmp_path_factory.mktemp("kinds")
    for name in ("red", "green", "blue"):
        photographs(place / "data" / name, 12, seed=len(name))
    few = ("train.epochs=1", "train.batch_size=12", "report.log_every=1")
    vit = ("encoder.name=vit_tiny", "encoder.patch=8", "views.size=32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLCTL_CACHE", str(place / "cache"))
        for name, changes in {"unlabelled": ("data.labels=none",), "vit": vit}.items():
            order = Order("folder", (*few, *changes), str(place / "data"), out=place / name)
            assert pretrain(order, Talk(quiet=True)).exit == 0
    collapsed = Run(shutil.copytree(trained[0], place / "collapsed"))
    (collapsed.folder / "report.json").unlink()
    state = collapsed.read_json("run.json")
    assert state is not None
    collapsed.write_json("run.json", {**state, "status": "failed: train.collapsed"})
    three = [trained[0], place / "unlabelled", place / "vit"]
    return {**{n: [place / n] for n in ("unlabelled", "vit", "collapsed")}, "three": three}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unlabelled", "needs labels"),
        ("vit", "Where the transformer looks"),
        ("collapsed", "Collapsed"),
        ("three", "3 runs"),
    ],
)
def test_pages_of_other_kinds_are_calm(kind, words, kinds, chromium, tmp_path, monkeypatch):
    from clctl.commands.report import Order, report
    from clctl.console import Talk

    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path / "cache"))
    page = tmp_path / "page.html"
    report(Order(tuple(str(run) for run in kinds[kind]), page), Talk(quiet=True))
    assert words in page.read_text("utf-8")
    for width, dark in ((360, True), (1440, False)):
        calm(chromium, page, width, dark)
