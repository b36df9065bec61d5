"""Retrieval against loops over exact fractions, hand examples and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from clctl.evaluate import retrieval as retrieval_module
from clctl.evaluate.retrieval import retrieval
from clctl.rng import generator


def crowd(*key, counts=(30, 12, 5, 1), d=6, noise=1.2):
    """Features around one centre per class, so many of each, in random order; and labels."""
    centres = torch.randn(len(counts), d, generator=generator("centres"))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator("order", *key))]
    return centres[labels] + noise * torch.randn(len(labels), d, generator=generator(*key)), labels


def angles(*degrees):
    """Unit vectors [N, 2]; the nearest by cosine is the nearest by angle."""
    turned = torch.tensor(degrees).double() * math.pi / 180
    return torch.stack([turned.cos(), turned.sin()], dim=1).float()


def cosine(x, y):
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def hits_oracle(bank, labels, query, label, without):
    """Whether each item, best first, has the label."""
    found = [(cosine(query, x), i) for i, x in enumerate(bank) if i != without]
    return [labels[i] == label for _, i in sorted(found, reverse=True)]


def oracle(bank, labels, queries, wanted, ks):
    """Metrics as fractions, and first hits, by the words of their definitions."""
    alone = queries is None
    rows, marks = (bank, labels) if alone else (queries, wanted)
    sums = dict.fromkeys([f"{name}_at_{k}" for k in ks for name in ("recall", "precision")], 0)
    sums["map_at_r"] = Fraction(0)
    first, scored = [], 0
    for i, (query, label) in enumerate(zip(rows, marks, strict=True)):
        hits = hits_oracle(bank, labels, query, label, i if alone else None)
        first.append(hits[0])
        total = sum(hits)
        if total == 0:
            continue
        scored += 1
        for k in ks:
            sums[f"recall_at_{k}"] += any(hits[:k])
            sums[f"precision_at_{k}"] += Fraction(sum(hits[:k]), k)
        for rank in range(1, total + 1):
            if hits[rank - 1]:
                sums["map_at_r"] += Fraction(sum(hits[:rank]), rank) / total
    return {name: float(Fraction(value) / scored) for name, value in sums.items()}, first, scored


@pytest.mark.parametrize("neighbours", [2**24, 40, 1])
@pytest.mark.parametrize("ks", [(1, 5, 10), (3,), (2, 1, 40, 100)])
@pytest.mark.parametrize("alone", [False, True])
def test_metrics_equal_their_definitions(monkeypatch, alone, ks, neighbours):
    monkeypatch.setattr(retrieval_module, "NEIGHBOURS", neighbours)
    bank, labels = crowd("bank")
    queries, wanted = (None, None) if alone else crowd("queries", counts=(9, 8, 5, 2, 3))
    found = retrieval(bank, labels, queries, wanted, ks=ks)
    listed = (None, None) if queries is None else (queries.tolist(), wanted.tolist())
    metrics, first, scored = oracle(bank.tolist(), labels.tolist(), *listed, ks)
    assert found.metrics == pytest.approx(metrics, abs=1e-12)
    assert 0.1 < metrics["map_at_r"] < 0.9
    assert found.first_hit.dtype == torch.bool
    assert found.first_hit.tolist() == first
    assert (found.queries, found.without) == (scored, 1 if alone else 3)


def test_an_example_by_hand():
    # From 0 degrees: hit, miss, hit, miss; R = 2. From 100: miss, hit, miss, hit; R = 2.
    bank, labels = angles(5, 10, 20, 30), torch.tensor([7, -1, 7, -1])
    found = retrieval(bank, labels, angles(0, 100), torch.tensor([7, 7]), ks=(1, 2, 3, 8))
    assert found.first_hit.tolist() == [True, False]
    assert found.metrics == pytest.approx(
        {
            "recall_at_1": 0.5,
            "precision_at_1": 0.5,
            "recall_at_2": 1.0,
            "precision_at_2": 0.5,
            "recall_at_3": 1.0,
            "precision_at_3": (2 / 3 + 1 / 3) / 2,
            "recall_at_8": 1.0,
            "precision_at_8": 2 / 8,
            "map_at_r": (1 / 2 + 1 / 4) / 2,
        }
    )


def test_perfect_and_worst():
    bank = torch.eye(3).repeat_interleave(4, dim=0)
    labels = torch.arange(3).repeat_interleave(4)
    best = retrieval(bank, labels, None, None, ks=(1, 3))
    assert set(best.metrics.values()) == {1.0}
    assert best.first_hit.all()
    # Each item is opposite to the one other of its class.
    bank, labels = angles(0, 180, 90, 270), torch.tensor([0, 0, 1, 1])
    worst = retrieval(bank, labels, None, None, ks=(1, 2))
    assert set(worst.metrics.values()) == {0.0}
    assert not worst.first_hit.any()
    found = retrieval(bank, labels, None, None, ks=(3,)).metrics
    assert found == pytest.approx({"recall_at_3": 1.0, "precision_at_3": 1 / 3, "map_at_r": 0.0})


def test_where_all_of_a_class_come_within_r_map_is_average_precision():
    # Average precision counts hits wherever they are; they agree if none is behind R or none at all.
    bank, labels = crowd("bank", counts=(20, 20), noise=1.5)
    queries, wanted = crowd("queries", counts=(15, 15), noise=1.5)
    agreed = 0
    for query, label in zip(queries, wanted, strict=True):
        similarity = torch.nn.functional.cosine_similarity(query[None], bank).numpy()
        relevant = (labels == label).numpy()
        nearest_r = np.argsort(-similarity)[:20]
        kept = np.isin(np.arange(40), nearest_r) & relevant
        if not kept.any():
            continue
        agreed += 1
        share = kept.sum() / 20  # scikit-learn divides by the hits that it is told of
        expected = share * average_precision_score(kept, similarity)
        found = retrieval(bank, labels, query[None], label[None]).metrics["map_at_r"]
        assert found == pytest.approx(expected, abs=1e-9)
    assert agreed > 20


def test_the_order_of_items_and_queries_changes_nothing():
    bank, labels = crowd("bank")
    queries, wanted = crowd("queries", counts=(9, 8, 5, 2, 3))
    plain = retrieval(bank, labels, queries, wanted)
    items = torch.randperm(len(bank), generator=generator("items"))
    turn = torch.randperm(len(queries), generator=generator("turn"))
    moved = retrieval(bank[items], labels[items], queries[turn], wanted[turn])
    assert moved.metrics == pytest.approx(plain.metrics, abs=1e-12)
    assert torch.equal(moved.first_hit, plain.first_hit[turn])


def test_names_of_classes_and_the_scale_of_features_change_nothing():
    bank, labels = crowd("bank")
    plain = retrieval(bank, labels, None, None)
    other = retrieval(4 * bank, torch.tensor([10**12, -5, 3, 0])[labels], None, None)
    assert other.metrics == plain.metrics
    assert torch.equal(other.first_hit, plain.first_hit)


def test_small_classes_do_not_look_as_deep_as_large_ones(monkeypatch):
    depths = []
    near = retrieval_module.nearest

    def spy(bank, queries, k, *rest, **more):
        depths.append(k)
        return near(bank, queries, k, *rest, **more)

    monkeypatch.setattr(retrieval_module, "nearest", spy)
    monkeypatch.setattr(retrieval_module, "NEIGHBOURS", 120)
    bank, labels = crowd("bank", counts=(60, 4, 4, 4))
    retrieval(bank, labels, None, None, ks=(2,))
    assert depths[:6] == [3] * 6  # two queries at a time, as 59 are the most to look at
    assert set(depths[6:]) == {59}


def test_queries_whose_class_is_not_there_are_in_no_metric():
    bank, labels = crowd("bank", counts=(12, 9))
    queries, wanted = crowd("queries", counts=(5, 5))
    plain = retrieval(bank, labels, queries, wanted)
    strangers = torch.full((4,), 9)
    more = retrieval(bank, labels, torch.cat([bank[:4], queries]), torch.cat([strangers, wanted]))
    assert (more.queries, more.without) == (10, 4)
    assert more.metrics == pytest.approx(plain.metrics, abs=1e-12)
    assert more.first_hit.tolist() == [False] * 4 + plain.first_hit.tolist()


def test_what_has_no_answer_is_refused():
    bank, labels = crowd("bank")
    with pytest.raises(ValueError, match="none of 4 queries"):
        retrieval(bank[:4], torch.arange(4), None, None)
    with pytest.raises(ValueError, match="none of 0 queries"):
        retrieval(bank, labels, bank[:0], labels[:0])
    with pytest.raises(ValueError, match="none of 48 queries"):
        retrieval(bank[:0], labels[:0], bank, labels)
    with pytest.raises(ValueError, match="both or not at all"):
        retrieval(bank, labels, bank, None)
    with pytest.raises(ValueError, match="both or not at all"):
        retrieval(bank, labels, None, labels)
    with pytest.raises(ValueError, match="47, 48 labels of 48, 48 rows"):
        retrieval(bank, labels[1:], bank, labels)
    for ks in ((), (1, 0)):
        with pytest.raises(ValueError, match="must be above 0"):
            retrieval(bank, labels, None, None, ks=ks)
    bank[3] = math.nan
    with pytest.raises(ValueError, match="1 of 48 rows of the bank are not finite"):
        retrieval(bank, labels, None, None)
