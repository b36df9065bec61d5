"""Batches of P classes by K images: whole groups, no image twice, a pure function of the step."""

from collections import Counter

import pytest
import torch

from clctl.console import Exit, Problem
from clctl.data.feed import Feed
from clctl.images import Images, Split

CPU = torch.device("cpu")


def a_split(counts: list[int]) -> Split:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    canvas = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    sizes = torch.full((len(labels), 2), 4)
    return Split("train", Images(canvas, sizes), labels, [str(i) for i in range(len(labels))])


def test_every_batch_holds_whole_groups_of_many_classes():
    split = a_split([20, 17, 9, 40])
    feed = Feed(split, 12, 0, CPU, True, 4)
    assert feed.per_epoch == (20 + 16 + 8 + 40) // 12
    seen: list[int] = []
    for step in range(feed.per_epoch):
        rows = feed.rows(step)
        labels = split.labels[rows].view(3, 4)
        assert torch.equal(labels, labels[:, :1].expand(-1, 4))
        seen += rows.tolist()
    assert max(Counter(seen).values()) == 1
    first = {step: len(split.labels[feed.rows(step)].unique()) for step in range(2)}
    assert first[0] == 3  # the first turn has every class once
    assert feed.rows(0).tolist() != feed.rows(feed.per_epoch).tolist()


def test_batches_are_a_function_of_seed_and_step():
    split = a_split([8, 8, 8])
    forward = Feed(split, 8, 3, CPU, True, 4)
    rows = [forward.rows(step).tolist() for step in range(9)]
    again = Feed(split, 8, 3, CPU, True, 4)
    assert [again.rows(step).tolist() for step in (7, 2, 8, 0)] == [rows[i] for i in (7, 2, 8, 0)]
    assert Feed(split, 8, 4, CPU, True, 4).rows(0).tolist() != rows[0]


@pytest.mark.parametrize("counts", [[3] * 8, [40, 3, 3], [11, 7]])
def test_classes_that_cannot_fill_a_batch_are_refused(counts):
    with pytest.raises(Problem, match="4 images") as caught:
        Feed(a_split(counts), 16, 0, CPU, True, 4)
    assert (caught.value.exit, caught.value.code) == (Exit.DATA, "data.fewer-than-batch")
    assert "method.per_class" in (caught.value.suggestion or "")
