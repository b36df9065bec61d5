import html.parser
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photographs
from PIL import Image
from torch.nn.functional import normalize

from clctl.commands._album import of_split
from clctl.commands.neighbors import drawn
from clctl.data.embeddings import read
from clctl.images import Images, Split
from clctl.report.gallery import FRAME, GAP, HEAD, SIDE, Shown, page, png
from clctl.store.reference import find
from clctl.store.tensors import write

RED = (0xC6, 0x28, 0x28)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """An untrained encoder of pictures of 16 pixels, as an export folder."""
    from clctl.commands.export import Order, export
    from clctl.console import Talk

    folder = tmp_path_factory.mktemp("fresh")
    recipe = {
        "name": "fresh",
        "data": {"name": "digits"},
        "method": {"name": "simclr"},
        "encoder": {"name": "resnet_small", "width": 8},
        "views": {"size": 16, "groups": [{"count": 2}]},
        "train": {"epochs": 1, "batch_size": 32},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    (folder / "fresh.yaml").write_text(json.dumps(recipe))
    order = Order(None, "safetensors", out=folder, init=str(folder / "fresh.yaml"))
    return Path(export(order, Talk(quiet=True)).document["folder"])


def pictures(folder: Path, classes: tuple[str, ...], count: int) -> Path:
    for i, name in enumerate(classes):
        photographs(folder / name, count, seed=i)
    return folder


def test_the_nearest_are_those_of_a_plain_search(fresh, clctl, tmp_path):
    report = clctl("neighbors", fresh, "--json")
    assert report.code == 0, report.err
    document = report.document
    assert document["schema"] == "clctl/neighbors/1"
    assert len(document["queries"]) == 12
    assert document["among"]["pictures"] == 1437
    clctl("embed", fresh, "-o", tmp_path / "f.npz")
    held = read(tmp_path / "f.npz")
    unit = normalize(held.features.double(), dim=1)
    train = [i for i, part in enumerate(held.splits) if part == "train"]
    for query in document["queries"]:
        row = held.ids.index(query["id"])
        assert held.splits[row] == "test"
        assert query["class"] == str(int(held.labels[row]))
        best = (unit[train] @ unit[row]).topk(8)
        found = [n["similarity"] for n in query["neighbors"]]
        np.testing.assert_allclose(found, best.values, atol=1e-5)
        assert query["neighbors"][0]["id"] == held.ids[train[int(best.indices[0])]]
    again = clctl("neighbors", tmp_path / "f.npz", "--json").document
    assert [q["id"] for q in again["queries"]] == [q["id"] for q in document["queries"]]
    assert again["same_class"] == document["same_class"]


def test_without_labels_no_picture_finds_itself(fresh, clctl, tmp_path):
    data = pictures(tmp_path / "data", ("",), 15)
    report = clctl("neighbors", fresh, "--data", data, "-o", tmp_path / "g.png", "--json")
    assert report.code == 0, report.err
    assert report.document["itself_left_out"]
    assert report.document["same_class"] is None
    for query in report.document["queries"]:
        assert query["class"] is None
        assert query["id"] not in [n["id"] for n in query["neighbors"]]
    with Image.open(tmp_path / "g.png") as sheet:
        assert sheet.size == (2 * GAP + 9 * (SIDE + GAP), HEAD + GAP + 12 * (SIDE + 30 + GAP))


def test_a_file_of_the_data_finds_itself(fresh, clctl, tmp_path):
    data = pictures(tmp_path / "data", ("red", "blue"), 10)
    train = clctl("neighbors", fresh, "--data", data, "--split", "train", "--json").document
    name = train["queries"][0]["id"]
    files = [data / name, data / train["queries"][1]["id"]]
    asked = [word for file in files for word in ("--query", file)]
    report = clctl("neighbors", fresh, "--data", data, *asked, "-o", tmp_path / "g.html", "--json")
    assert report.code == 0, report.err
    first, second = report.document["queries"]
    assert first["neighbors"][0]["id"] == name
    assert first["neighbors"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert first["class"] is None
    assert second["neighbors"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert (tmp_path / "g.html").stat().st_size > 1000


def test_a_query_of_16_bits_is_stretched_to_what_data_has(fresh, clctl, tmp_path):
    data = pictures(tmp_path / "data", ("red", "blue"), 10)
    picture = next((data / "red").glob("*.png"))
    grey = np.asarray(Image.open(picture).convert("L")).astype(np.uint16)
    found = []
    for scale in (1, 200):  # the same picture, whatever its numbers reach to
        Image.fromarray(grey * scale).save(tmp_path / "deep.png")
        answer = clctl(
            "neighbors", fresh, "--data", data, "--query", tmp_path / "deep.png", "--json"
        )
        assert answer.code == 0, answer.err
        found.append([n["id"] for n in answer.document["queries"][0]["neighbors"]])
    assert found[0] == found[1]


def test_all_parts_are_searched_together(fresh, clctl, tmp_path):
    data = pictures(tmp_path / "data", ("train/red", "train/blue", "val/red", "val/blue"), 4)
    report = clctl("neighbors", fresh, "--data", data, "--split", "all", "--json").document
    assert report["among"]["pictures"] == 16
    assert {q["id"].split("/")[0] for q in report["queries"]} == {"train", "val"}


def test_features_show_the_pictures_of_their_data(fresh, clctl, tmp_path):
    data = pictures(tmp_path / "data", ("red", "blue"), 10)
    file, out = tmp_path / "f.safetensors", tmp_path / "deep" / "g.png"
    clctl("embed", fresh, "--data", data, "-o", file)
    assert clctl("neighbors", file, "--data", data, "-o", out, "-q").out.strip() == str(out)
    assert out.exists()
    other = pictures(tmp_path / "other", ("x", "y"), 3)
    refused = clctl("neighbors", file, "--data", other, "-o", out)
    assert refused.code == 4
    assert "has no picture" in refused.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("FRESH", "-o", "g.gif"), 2, ".html"),
        (("FEATURES", "-o", "g.png"), 2, "--data"),
        (("FEATURES", "--query", "x.png"), 2, "encoder"),
        (("FRESH", "--query", "missing.png"), 4, "missing.png"),
        (("FRESH", "--split", "night"), 4, "night"),
        (("ONE",), 4, "more pictures"),
        (("nowhere",), 5, "nowhere"),
    ],
)
def test_what_cannot_be_searched_is_refused(fresh, clctl, tmp_path, words, code, told):
    np.save(tmp_path / "f.npy", np.eye(5, dtype=np.float32))
    np.save(tmp_path / "one.npy", np.ones((1, 4), np.float32))
    known = {"FRESH": fresh, "FEATURES": tmp_path / "f.npy", "ONE": tmp_path / "one.npy"}
    answer = clctl("neighbors", *(known.get(word, word) for word in words))
    assert answer.code == code
    assert told in answer.err
    assert answer.out == ""


def test_weights_that_are_broken_are_told(fresh, clctl, tmp_path):
    from clctl.store import tensors

    held, metadata = tensors.read(find(str(fresh)).model)
    held["encoder.conv1.weight"][:] = torch.nan
    write(tmp_path / "bad.safetensors", held, metadata)
    answer = clctl("neighbors", tmp_path / "bad.safetensors")
    assert answer.code == 7
    assert "not finite" in answer.err


def shown(value: int, **facts) -> Shown:
    return Shown(
        **{"name": "n", "label": None, "picture": torch.full((3, 8, 8), value).byte(), **facts}
    )


def test_only_wrong_neighbours_are_framed():
    rows = [[shown(9), shown(99, similarity=0.5), shown(199, similarity=0.4, wrong=True)]]
    first = png(rows, "title")
    assert first == png(rows, "title")
    sheet = np.asarray(Image.open(io.BytesIO(first)))
    places = [GAP, GAP + (SIDE + GAP) + GAP, GAP + 2 * (SIDE + GAP) + GAP]
    for place, value, wrong in zip(places, (9, 99, 199), (False, False, True), strict=True):
        cell = sheet[HEAD : HEAD + SIDE, place : place + SIDE]
        assert (cell[SIDE // 2, SIDE // 2] == value).all()
        assert (tuple(cell[0, 0]) == RED) == wrong
        assert (tuple(cell[FRAME - 1, FRAME - 1]) == RED) == wrong


def test_names_of_any_script_and_length_fit():
    names = ["übung/Ω" * 40, "名前", "a\nb\x1b[0m$x$", "<b>"]
    rows = [
        [shown(1, name=name), shown(2, name=name, label=name, similarity=1.0)] for name in names
    ]
    for title in (*names, ""):
        assert Image.open(io.BytesIO(png(rows, title))).width == 2 * GAP + 2 * (SIDE + GAP)


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_all_and_fetches_nothing():
    evil = "\"><script>alert(1)</script><img src='http://x/'>"
    large = torch.zeros(1, 300, 200, dtype=torch.uint8)
    rows = [
        [
            shown(1, name=evil),
            shown(2, name=evil, label=evil, similarity=0.25, wrong=True),
            shown(3, name="b", picture=large, similarity=0.2),
        ]
    ]
    text = page(rows, evil).decode()
    parser = Tags()
    parser.feed(text)
    kinds = [tag for tag, _ in parser.tags]
    assert "script" not in kinds
    assert kinds.count("img") == 3
    images = [attributes for tag, attributes in parser.tags if tag == "img"]
    assert all(str(image["src"]).startswith("data:image/") for image in images)
    assert str(images[2]["src"]).startswith("data:image/jpeg")
    assert images[0]["alt"] == f"query {evil}"
    assert images[1]["alt"] == f"neighbour 1 of {evil}: {evil}, {evil}, similarity 0.250"
    assert [a.get("class") for tag, a in parser.tags if tag == "figure"] == [None, "wrong", None]
    assert "prefers-color-scheme" in text
    assert "color-scheme: light dark" in text


def test_a_run_without_labels_draws_its_pictures(tmp_path):
    rng = torch.Generator().manual_seed(0)
    canvas = torch.randint(256, (9, 8, 8, 3), generator=rng, dtype=torch.uint8).permute(0, 3, 1, 2)
    split = Split("train", Images(canvas, torch.full((9, 2), 8)), None, [str(i) for i in range(9)])
    album = of_split("train", split, None, torch.randn(9, 4, generator=rng))
    drawn(album, None, tmp_path / "pictures" / "neighbors.png", torch.device("cpu"))
    with Image.open(tmp_path / "pictures" / "neighbors.png") as sheet:
        assert sheet.height == HEAD + GAP + 9 * (SIDE + 30 + GAP)
