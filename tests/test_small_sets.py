"""Forty pictures: queues and prototypes are cut by rule, said in the log; batches are refused."""

from dataclasses import replace

import pytest
import torch
import toy

from clctl.console import Exit, Problem
from clctl.data.feed import Feed
from clctl.engine import train
from clctl.images import Images, Split
from clctl.method import Scale
from clctl.nn.prototypes import number, told
from clctl.nn.queue import length
from clctl.optim import build
from clctl.recipe.plugins import config, known
from clctl.recipe.sections import SGD
from clctl.rng import seeded

FEW, BATCH = 40, 32
CPU = torch.device("cpu")


def pictures(count: int) -> Split:
    images = Images(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.full((count, 2), 8))
    return Split("train", images, torch.arange(count) % 4, [str(i) for i in range(count)])


def small(name: str):
    """A toy method as the rules make it for FEW images: nothing is said of queue and prototypes."""
    changes = {k: v for k, v in toy.SMALL[name].items() if k not in ("queue", "prototypes")}
    with seeded("small", 0):
        encoder = toy.Pooled() if name in toy.SIZES else toy.Toy()
        return config("clctl.methods", name)(**changes).build(encoder, Scale(BATCH, FEW))


@pytest.mark.parametrize("name", known("clctl.methods"))
def test_every_method_trains_on_few_pictures(name):
    method = small(name)
    for key, value in method.state_dict().items():
        if key.endswith("items"):
            assert len(value) == BATCH, key
        if key.endswith("prototypes.weight"):
            assert len(value) == FEW // 4, key
    plan = toy.plan(2, sizes=toy.SIZES.get(name, (8, 8)))
    feed = Feed(pictures(FEW), BATCH, 0, CPU, method.uses_labels, method.per_class)
    drawn = torch.randn(FEW, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plan = replace(
        plan,
        per_epoch=feed.per_epoch,
        batches=lambda start: (drawn[feed.rows(step)] for step in range(start, 9)),
    )
    assert feed.per_epoch == 1
    before = [p.detach().clone() for p in method.encoder.parameters()]
    losses = [t.fetch()["loss"] for t in train(plan, method, build(SGD(lr=0.1), method))]
    chance = method.chance(BATCH)
    if chance is not None:
        assert max(losses) < 3 * chance
    moved = [
        not torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize(
    ("asked", "images", "count"),
    [
        ("auto", None, 3000),
        ("auto", 50_000, 3000),
        ("auto", 11_999, 2999),
        ("auto", 40, 10),
        ("auto", 3, 2),
        (500, 40, 500),
    ],
)
def test_number_of_prototypes(asked, images, count):
    assert number(asked, 3000, images) == count


def test_the_log_tells_what_was_settled():
    assert small("dino").facts()["prototypes"] == "10"
    assert small("swav").facts()["queue"].startswith("32 projections")
    assert small("nnclr").facts()["queue"] == "32 projections"
    assert told(500, 40) == "500, more than the 40 images: auto would suit"
    assert told(500, None) == told(500, 500) == "500"


def test_the_queue_that_is_proposed_is_taken():
    with pytest.raises(Problem, match="longer than the training set of 40 images") as refused:
        length(4096, 65536, 64, FEW)
    proposed = str(refused.value.suggestion).removeprefix("--set method.queue=").partition(",")[0]
    assert length(int(proposed), 65536, 64, FEW) == int(proposed)


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 2), (40, 32), (64, 64), (255, 128)])
def test_the_batch_that_is_proposed_is_taken(count, size):
    with pytest.raises(Problem, match=f"{count} images in train do not fill") as refused:
        Feed(pictures(count), 256, 0, CPU, uses_labels=False)
    assert refused.value.exit == Exit.DATA
    assert f"--set train.batch_size={size}," in str(refused.value.suggestion)
    assert Feed(pictures(count), size, 0, CPU, uses_labels=False).per_epoch >= 1
