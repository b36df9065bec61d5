import html.parser
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photographs
from PIL import Image
from torch.nn.functional import normalize

from clctl.commands._report_material import few, gather, predictions
from clctl.commands._report_pictures import QUERIES, neighbours, sections, spread
from clctl.commands._report_readings import confused
from clctl.console import Talk
from clctl.encoders._vit import HEAD, ViT
from clctl.images import Images, Split
from clctl.report import charts, confusion, spectrum, tsne
from clctl.report.attention import attention, patch_colours, warmth
from clctl.report.thumbnails import image, sheet
from clctl.store.run import Run

EVIL = "<script>alert(1)<!--script>"
QUIET = Talk(quiet=True)


@dataclass(frozen=True)
class Order:
    data: str | None = None
    device: str = "cpu"
    split: str | None = None


class Page(html.parser.HTMLParser):
    """The tags of a fragment, and its text outside of scripts and styles."""

    def __init__(self, body: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.inside = "", ""
        self.feed(body)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def exported(folder: Path, encoder: dict, size: int = 16, scale: float | None = None) -> str:
    """An encoder without training as a checkpoint; `scale` multiplies its last weights."""
    from clctl.commands.export import Order as Export
    from clctl.commands.export import export

    recipe = {
        "name": "fresh",
        "data": {"name": "digits"},
        "method": {"name": "simclr"},
        "encoder": encoder,
        "views": {"size": size, "groups": [{"count": 2}]},
        "train": {"epochs": 1, "batch_size": 32},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    folder.mkdir(exist_ok=True)
    (folder / "fresh.yaml").write_text(json.dumps(recipe))
    order = Export(None, "safetensors", out=folder, init=str(folder / "fresh.yaml"))
    return export(order, QUIET).document["folder"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> str:
    return exported(tmp_path_factory.mktemp("fresh"), {"name": "resnet_small", "width": 8})


def made(ckpt: str, folder: Path, **order) -> dict[str, object]:
    return {s.slug: s for s in sections(Run(folder), ckpt, Order(**order), QUIET)}


def test_all_sections_of_labelled_pictures(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(tsne, "MOST", 60)
    found = made(fresh, tmp_path)
    assert list(found) == ["views", "neighbours", "map", "confusion", "spectrum"]
    assert not any(section.missing for section in found.values())
    assert sum(len(section.body) for section in found.values()) < 3e6
    for section in found.values():
        page = Page(section.body)
        assert section.title
        assert section.lead
        assert all(a["alt"] and a["src"].startswith("data:image/") for a in page.all("img"))
        assert "http" not in section.body
        assert not [h for h in page.tags if h[0] in ("h1", "h2")]
    assert len(Page(found["views"].body).all("img")) == 5 * 3
    assert len(Page(found["neighbours"].body).all("img")) == QUERIES * 7


def test_neighbours_are_those_of_a_plain_search_and_marked_without_colour_too(fresh):
    material = gather(fresh, Order(), QUIET)
    assert len(material.features) == 360
    train = material.train
    assert train is not None
    from clctl.commands import _setup
    from clctl.evaluate.features import extract

    ready = _setup.preparation(material.recipe.views)
    bank = extract(material.encoder, train.images, ready, torch.device("cpu"))
    cosine = normalize(material.features.double(), dim=1) @ normalize(bank.double(), dim=1).T
    best = cosine.topk(20, dim=1)
    torch.testing.assert_close(material.similarity.double(), best.values, atol=1e-5, rtol=0)
    weight = (best.values / 0.07).exp()
    votes = torch.zeros(360, 10, dtype=torch.float64)
    votes.scatter_add_(1, train.labels[best.indices], weight)
    assert torch.equal(votes.argmax(dim=1), predictions(material))
    _, body = neighbours(material)
    wrong = body.count('<figure class="wrong">')
    assert wrong
    assert body.count("✗ other class") == wrong
    assert "Named wrong" in body
    right = int((predictions(material) == material.test.labels).sum())
    assert f"{right} of 360 pictures" in body


def test_rows_are_spread_over_the_classes():
    labels = torch.tensor([0] * 90 + [1] * 8 + [2, 2])
    rows = spread(labels, 8)
    assert rows == sorted(set(rows)) == spread(labels, 8)
    assert torch.bincount(labels[rows]).tolist() == [3, 3, 2]
    assert spread(labels[:3], 8) == [0, 1, 2]
    assert spread(labels[:0], 8) == []


def test_names_from_outside_stay_text(fresh, tmp_path):
    for i, name in enumerate((EVIL, "$x_{", "b&amp;")):
        photographs(tmp_path / "data" / name, 12, seed=i)
    found = made(fresh, tmp_path, data=str(tmp_path / "data"), split="all")
    assert not any(section.missing for section in found.values())
    assert made(fresh, tmp_path, data=str(tmp_path / "data"), split="all") == found
    bodies = "".join(section.body for section in found.values())
    assert EVIL not in bodies
    scripts = Page(bodies).all("script")
    assert scripts == [{"type": "application/json"}, {}]
    held = re.search(r'<script type="application/json">(.*?)</script>', bodies, re.DOTALL)
    assert held is not None
    assert EVIL in json.loads(held[1])["labels"]
    for slug in ("neighbours", "confusion"):
        assert EVIL in Page(found[slug].body).words
        assert "b&amp;" in Page(found[slug].body).words


def test_without_labels_there_is_neither_right_nor_wrong(fresh, tmp_path):
    photographs(tmp_path / "data", 15)
    found = made(fresh, tmp_path, data=str(tmp_path / "data"))
    assert "no labels" in found["confusion"].missing
    assert [s for s, section in found.items() if section.missing] == ["confusion"]
    assert "✗" not in found["neighbours"].body
    assert len(Page(found["neighbours"].body).all("img")) == QUERIES * 7
    assert "the others" in found["neighbours"].lead
    assert "legend" not in found["map"].body


def test_one_labelled_folder_is_judged_by_leaving_one_out(fresh, tmp_path):
    for i, name in enumerate(("red", "blue")):
        photographs(tmp_path / "data" / "train" / name, 12, seed=i)
    material = gather(fresh, Order(data=str(tmp_path / "data"), split="all"), QUIET)
    assert material.train is None
    assert not (material.index == torch.arange(len(material.index))[:, None]).any()
    found = made(fresh, tmp_path, data=str(tmp_path / "data"), split="all")
    assert not any(section.missing for section in found.values())


def test_one_class_cannot_be_mixed_up(fresh, tmp_path):
    photographs(tmp_path / "data" / "train" / "only", 12)
    photographs(tmp_path / "data" / "val" / "only", 11, seed=1)
    found = made(fresh, tmp_path, data=str(tmp_path / "data"))
    assert [s for s, section in found.items() if section.missing] == ["confusion"]
    assert found["confusion"].missing


def test_three_pictures_give_what_they_can(fresh, tmp_path):
    photographs(tmp_path / "data", 3)
    found = made(fresh, tmp_path, data=str(tmp_path / "data"))
    assert "too few" in found["map"].missing
    assert len(Page(found["neighbours"].body).all("img")) == 9
    assert found["spectrum"].missing is None


def test_equal_features_are_told_and_break_nothing(fresh, tmp_path):
    photographs(tmp_path / "one", 1)
    picture = Image.open(next((tmp_path / "one").iterdir()))
    (tmp_path / "data").mkdir()
    for i in range(12):
        picture.save(tmp_path / "data" / f"{i}.png")
    found = made(fresh, tmp_path, data=str(tmp_path / "data"))
    assert "same features" in found["map"].missing
    assert "collapsed" in found["spectrum"].lead
    assert found["neighbours"].missing is None


def test_what_cannot_be_opened_is_said_by_every_section(fresh, tmp_path):
    for ckpt, data in ((fresh, str(tmp_path / "nowhere")), (str(tmp_path / "none"), None)):
        found = made(ckpt, tmp_path, data=data)
        assert list(found) == ["views", "neighbours", "map", "confusion", "spectrum"]
        assert all(section.missing and not section.body for section in found.values())
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "views.png")
    views = made(fresh, tmp_path, data=str(tmp_path / "nowhere"))["views"]
    assert views.missing is None
    assert "data:image/png" in views.body


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_attention_is_an_explicit_softmax(pool):
    torch.manual_seed(0)
    vit = ViT(24, 8, 2 * HEAD, pool, 0.0, False).eval()
    x = torch.randn(2, 3, 24, 16)
    with torch.no_grad():
        found = attention(vit, x)
        tokens = vit._embedded(x)
        for block in vit.blocks[:-1]:
            tokens = block(tokens)
        last = vit.blocks[-1]
        rows = last.attn.qkv(last.norm1(tokens)).double()
    assert found.shape == (2, 2, 3, 2)
    for b in range(2):
        for head in range(2):
            part = slice(head * HEAD, (head + 1) * HEAD)
            query, key = rows[b, :, part], rows[b, :, 2 * HEAD :][:, part]
            weights = torch.stack([torch.softmax(q @ key.T / HEAD**0.5, dim=0) for q in query])
            wanted = weights[0, 1:] if pool == "cls" else weights[1:, 1:].mean(dim=0)
            torch.testing.assert_close(
                found[b, head].double(), wanted.view(3, 2), atol=1e-5, rtol=1e-4
            )


def test_alike_patches_have_alike_colours():
    torch.manual_seed(0)
    vit = ViT(32, 8, HEAD, "cls", 0.0, False).eval()
    torch.nn.init.zeros_(vit.pos_embed)
    x = torch.rand(2, 3, 32, 32)
    x[:, :, :16] = 0.5  # the upper half is one grey
    with torch.no_grad():
        colours = patch_colours(vit, x)
    assert colours.shape == (2, 3, 4, 4)
    assert colours.dtype == torch.uint8
    upper = colours[0, :, :2].float().flatten(1)
    assert float(upper.std(dim=1).max()) < 4
    assert float(colours[:, :, 2:].float().flatten(2).std()) > 30
    warm = warmth(torch.tensor([[[0.0, 1.0], [0.5, 0.5]], [[3.0, 3.0], [3.0, 3.0]]]))
    assert warm.shape == (2, 3, 2, 2)
    assert warm[0, :, 0, 1].tolist() == [252, 254, 164]  # the bright end of inferno
    assert (warm[1] < 10).all()  # nothing to tell apart: black


def test_a_transformer_shows_where_it_looks(tmp_path):
    ckpt = exported(tmp_path / "vit", {"name": "vit_tiny", "patch": 8}, 16)
    photographs(tmp_path / "data", 12)
    looks = made(ckpt, tmp_path, data=str(tmp_path / "data"))["attention"]
    assert looks.missing is None
    alts = [a["alt"] for a in Page(looks.body).all("img")]
    assert len(alts) == 6 * (1 + 3 + 1)
    assert sum("head 3" in alt for alt in alts) == 6


def test_the_map_keeps_groups_together_and_is_the_same_twice():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    z = 5 * torch.eye(4, 24)[labels] + 0.3 * torch.randn(120, 24, generator=rng)
    places = tsne.laid_out(z)
    assert torch.equal(places, tsne.laid_out(z))
    assert places.min() == 0
    assert places.max() == 1
    near = torch.cdist(places, places).fill_diagonal_(9).argmin(dim=1)
    assert torch.equal(labels[near], labels)
    for wrong in (z[:9], z[:1].expand(50, -1), z[:1] * torch.arange(1, 51)[:, None]):
        with pytest.raises(ValueError, match=r"too few|same features"):
            tsne.laid_out(wrong)


def test_pictures_of_the_map_lie_where_its_points_are():
    places = torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.5, 1.0]])
    labels, classes = torch.tensor([0, 1, 0]), ["a", "b"]
    svg = charts.svg(tsne.figure(places, labels, classes), "map", "of three")
    drawn = {
        (float(x), float(y))
        for x, y in re.findall(r'<use[^>]* x="([\d.]+)" y="([\d.]+)"', svg.split("legend")[0])
    }
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    pictures = [torch.full((3, 5, 7), v, dtype=torch.uint8) for v in (0, 100, 200)]
    body = tsne.explorer(
        svg, places, tsne.share(labels), ["x/y", "z", "w"], ["a", "b", "a"], pictures
    )
    held = json.loads(re.search(r'application/json">(.*?)</script>', body)[1])
    assert held["names"] == ["y", "z", "w"]
    for x, y in held["places"]:
        assert any(
            abs(x * width - a) < 1 and abs(y * width * height / width - b) < 1 for a, b in drawn
        )


def test_many_classes_are_named_by_the_most_frequent():
    labels = torch.cat([torch.arange(200), torch.full((5,), 150)])
    places = torch.rand(205, 2, generator=torch.Generator().manual_seed(0))
    axes = tsne.figure(places, labels, [f"c{i}" for i in range(200)]).axes[0]
    names = axes.get_legend_handles_labels()[1]
    assert names[0] == "other classes"
    assert len(names) == 1 + tsne.NAMED
    assert "c150" in names
    assert sum(len(c.get_offsets()) for c in axes.collections) == 205


def test_confusions_are_counted_and_the_worst_come_first():
    table = torch.tensor([[8, 2, 0], [0, 4, 6], [0, 0, 0]])
    assert confusion.worst(table) == [1, 0]
    page = Page(confusion.mixed_up(table, ["cat", EVIL, "none"]))
    assert "catSCRIPT".replace("SCRIPT", EVIL) in page.words.replace("\n", "")
    assert page.words.index("6 of 10") < page.words.index("2 of 10")
    assert confusion.mixed_up(torch.eye(3).long(), ["a", "b", "c"]) == ""
    svg = charts.svg(confusion.figure(table, ["cat", "dog", "none"]), "t", "d")
    assert re.findall(r">(\d+)</text>", svg) == ["8", "2", "4", "6"]
    assert "var(--wrong)" in svg


def test_many_classes_are_told_as_a_table(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(confusion, "DRAWN", 2)
    for i, name in enumerate("abc"):
        photographs(tmp_path / "data" / name, 8, seed=i)
    _, body = confused(gather(fresh, Order(data=str(tmp_path / "data"), split="all"), QUIET))
    assert "<svg" not in body
    assert "taken for" in Page(body).words


def test_the_spectrum_is_what_rank_me_is_of():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(50, 8, generator=rng)
    axes = spectrum.figure({"trained": z, "point": torch.ones(50, 8)}).axes[0]
    full, point = axes.lines
    values = torch.linalg.svdvals(z.double())
    np.testing.assert_allclose(full.get_ydata(), values / values.sum(), rtol=1e-9)
    assert point.get_ydata().tolist() == pytest.approx([1])
    assert spectrum.figure({"nothing": torch.zeros(4, 3)}).axes[0].lines[0].get_ydata().size == 0


def test_pictures_are_kept_small():
    large = torch.randint(256, (3, 300, 200), dtype=torch.uint8)
    assert "image/jpeg" in image(large, 'a "quote"', 112)
    assert "&quot;quote&quot;" in image(large, 'a "quote"', 112)
    assert "image/png" in image(large[:1, :8, :8], "", 112)
    grey = torch.zeros(1, 9, 30, dtype=torch.uint8)
    address = sheet([grey, large, grey], 10, 2)
    assert address.startswith("data:image/jpeg;base64,")
    assert address == sheet([grey, large, grey], 10, 2)


def test_a_draw_is_the_same_every_time():
    canvas = torch.zeros(30, 1, 4, 4, dtype=torch.uint8)
    split = Split("test", Images(canvas, torch.full((30, 2), 4)), None, [str(i) for i in range(30)])
    assert few(split, 30, "x") is split
    drawn = few(split, 7, "x")
    assert drawn.ids == few(split, 7, "x").ids
    assert [int(i) for i in drawn.ids] == sorted(int(i) for i in drawn.ids)
