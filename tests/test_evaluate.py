"""Neighbours, linear probe and scores against independent counts."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from clctl.evaluate import knn as knn_module
from clctl.evaluate.knn import knn
from clctl.evaluate.linear import PENALTIES, folds, linear
from clctl.evaluate.score import chance, score, wilson
from clctl.rng import generator


def clusters(*key, n=60, classes=3, d=5, noise=1.0):
    """Features [n, d] around one centre per class, and their labels."""
    centres = torch.randn(classes, d, generator=generator("centres", classes, d))
    labels = torch.arange(n) % classes
    return centres[labels] + noise * torch.randn(n, d, generator=generator(*key)), labels


def vote_oracle(bank, labels, query, without, classes, k, temperature):
    def cosine(x, y):
        return math.fsum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    near = sorted(
        (
            (cosine(query, x), y)
            for i, (x, y) in enumerate(zip(bank, labels, strict=True))
            if i != without
        ),
        reverse=True,
    )[:k]
    votes = [0.0] * classes
    for similarity, label in near:
        votes[label] += math.exp((similarity - 1) / temperature)
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize(
    ("classes", "k", "temperature"), [(3, 20, 0.07), (2, 5, 0.5), (6, 1, 0.07)]
)
def test_knn_equals_scikit_learns_weighted_vote(classes, k, temperature):
    bank, labels = clusters("bank", classes=classes)
    queries, _ = clusters("queries", n=25, classes=classes)
    oracle = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp(-distance.astype(np.float64) / temperature),
    )
    expected = oracle.fit(bank.double().numpy(), labels).predict_proba(queries.double().numpy())
    votes = knn(bank, labels, queries, classes=classes, k=k, temperature=temperature)
    assert votes.dtype == torch.float32
    np.testing.assert_allclose(votes.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("k", [4, 20, 1000])
def test_knn_without_queries_leaves_each_row_out(k):
    bank, labels = clusters("bank", n=30, classes=2)
    votes = knn(bank, labels, None, classes=2, k=k)
    rows, marks = bank.double().tolist(), labels.tolist()
    expected = [vote_oracle(rows, marks, row, i, 2, k, 0.07) for i, row in enumerate(rows)]
    torch.testing.assert_close(votes.double(), torch.tensor(expected).double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_knn_does_not_depend_on_the_chunk(monkeypatch, alone):
    bank, labels = clusters("bank")
    queries = None if alone else clusters("queries", n=25)[0]
    whole = knn(bank, labels, queries, classes=3)
    for chunk in (1, 7, 25):
        monkeypatch.setattr(knn_module, "CHUNK", chunk)
        part = knn(bank, labels, queries, classes=3)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)


def test_knn_asks_all_there_are_when_k_is_larger():
    bank, labels = clusters("bank", n=6)
    queries, _ = clusters("queries", n=4)
    assert torch.equal(
        knn(bank, labels, queries, classes=3, k=20), knn(bank, labels, queries, classes=3, k=6)
    )
    assert torch.equal(
        knn(bank, labels, None, classes=3, k=20), knn(bank, labels, None, classes=3, k=5)
    )
    two = knn(bank[:2], labels[:2], None, classes=3)
    assert torch.equal(two, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_knn_at_a_low_temperature_lets_the_nearest_decide():
    bank, labels = clusters("bank")
    queries, _ = clusters("queries", n=25)
    votes = knn(bank, labels, queries, classes=3, temperature=1e-4)
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(25))
    nearest = knn(bank, labels, queries, classes=3, k=1)
    assert torch.equal(votes.argmax(dim=1), nearest.argmax(dim=1))
    rows = bank.double().tolist()
    cold = knn(bank, labels, queries, classes=3, temperature=0.01)
    expected = [
        vote_oracle(rows, labels.tolist(), q, None, 3, 20, 0.01) for q in queries.double().tolist()
    ]
    torch.testing.assert_close(cold.double(), torch.tensor(expected).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"temperature": 0.0}, {"temperature": math.nan}])
def test_knn_refuses_what_has_no_answer(wrong):
    bank, labels = clusters("bank", n=4)
    with pytest.raises(ValueError, match="neighbours"):
        knn(bank, labels, bank, classes=3, **wrong)
    with pytest.raises(ValueError, match="0 neighbours"):
        knn(bank[:1], labels[:1], None, classes=3)


def toy(n=240, classes=3, noise=1.5, key="train"):
    x, y = clusters(key, n=n, classes=classes, d=8, noise=noise)
    return x.numpy(), y.numpy()


def fitted(x, y, penalty):
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1 / (penalty * len(y)), max_iter=5000, tol=1e-8)
    model.fit(scaler.transform(x).astype(np.float64), y)
    return lambda z: model.predict_proba(scaler.transform(z).astype(np.float64))


def test_the_probe_is_logistic_regression_with_the_penalty_that_suits_held_out_samples():
    (x, y), (test, labels) = toy(), toy(key="test")
    probe = linear(x, y, test, classes=3)
    assert probe.scores.dtype == np.float32
    assert probe.converged
    fit, held = train_test_split(np.arange(240), test_size=24, stratify=y, random_state=0)
    sweep = {p: (fitted(x[fit], y[fit], p)(x[held]).argmax(1) == y[held]).mean() for p in PENALTIES}
    assert probe.held_out == pytest.approx(sweep, abs=1 / 24 + 1e-9)
    assert probe.penalty == next(
        p for p in PENALTIES if probe.held_out[p] == max(probe.held_out.values())
    )
    expected = fitted(x, y, probe.penalty)(test)
    np.testing.assert_allclose(probe.scores, expected, atol=0.02)
    right = (expected.argmax(1) == labels).mean()
    assert right > 0.6
    assert (probe.scores.argmax(1) == labels).mean() == pytest.approx(right, abs=0.01)


def test_the_penalty_is_chosen_on_the_samples_that_are_given():
    x, y = toy(n=60, noise=3.0)
    held, marks = toy(n=60, noise=3.0, key="held")
    given = linear(x, y, x[:1], classes=3, choose=(held, marks))
    sweep = {p: (fitted(x, y, p)(held).argmax(1) == marks).mean() for p in PENALTIES}
    assert given.held_out == pytest.approx(sweep, abs=0.05)
    other = linear(x, y, x[:1], classes=3, choose=(held, (marks + 1) % 3))
    assert max(other.held_out.values()) < min(given.held_out.values())


def test_the_test_samples_change_nothing_but_their_own_scores():
    (x, y), (test, _) = toy(n=90, noise=3.0), toy(n=90, noise=3.0, key="test")
    probe = linear(x, y, test, classes=3)
    moved = linear(x, y, np.concatenate([test[:10], 50 * test[10:] + 3]), classes=3)
    assert (moved.penalty, moved.held_out) == (probe.penalty, probe.held_out)
    np.testing.assert_allclose(moved.scores[:10], probe.scores[:10], atol=1e-6)
    assert not np.allclose(moved.scores[10:], probe.scores[10:], atol=0.05)


def test_a_class_that_training_lacks_gets_probability_zero():
    x, y = toy(n=90)
    probe = linear(x, np.array([0, 2, 3])[y], x, classes=5)
    plain = linear(x, y, x, classes=3)
    assert not probe.scores[:, [1, 4]].any()
    np.testing.assert_allclose(probe.scores[:, [0, 2, 3]], plain.scores, atol=1e-6)


@pytest.mark.parametrize("counts", [(40, 1), (1, 40), (3, 1), (2, 1, 1), (30, 30, 1), (2, 2)])
def test_the_only_sample_of_a_class_is_fitted_and_the_probe_stands(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.eye(len(counts), dtype=np.float32)[y]
    probe = linear(x, y, x, classes=len(counts))
    np.testing.assert_allclose(probe.scores, fitted(x, y, probe.penalty)(x), atol=0.02)
    # Where one class alone can be held out, everything held out is of that class.
    if sum(count > 1 for count in counts) == 1 and max(counts) > 30:
        assert set(probe.held_out.values()) == {1.0}


@pytest.mark.parametrize(("y", "match"), [([1, 1, 1], "two classes"), ([0, 1, 2], "hold out")])
def test_a_probe_without_enough_labels_is_refused(y, match):
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=match):
        linear(x, np.array(y), x, classes=3)


def test_folds_score_every_sample_once_by_a_fit_that_never_saw_it():
    # Every sample has a feature of its own, so a fit that saw it knows its random label.
    x = np.eye(80, dtype=np.float32)
    y = np.random.default_rng(0).permutation(np.arange(80) % 2)
    seen = linear(x, y, x, classes=2)
    assert (seen.scores.argmax(1) == y).mean() == 1
    probe = folds(x, y, classes=2)
    assert (probe.scores.argmax(1) == y).mean() < 0.7
    np.testing.assert_allclose(probe.scores.sum(axis=1), 1, atol=1e-6)
    assert probe.penalty in PENALTIES


def test_folds_do_as_well_as_a_test_part():
    (x, y), (test, labels) = toy(), toy(key="test")
    crossed, plain = folds(x, y, classes=3), linear(x, y, test, classes=3)
    across = (crossed.scores.argmax(1) == y).mean()
    assert across == pytest.approx((plain.scores.argmax(1) == labels).mean(), abs=0.1)
    assert list(crossed.held_out) == list(PENALTIES)


def test_folds_need_a_sample_of_every_class_in_each():
    x, y = toy(n=30)
    y[:] = [1] * 26 + [3] * 4
    with pytest.raises(ValueError, match="5 samples of every class, one has 4"):
        folds(x, y, classes=4)


def test_score_counts_hits():
    votes = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    found = score(votes, torch.tensor([1, 2, 2, 1]))
    assert found.predictions.tolist() == [1, 0, 2, 0]  # of equals the first
    assert found.metrics == {"top1": 0.5}
    assert found.interval == wilson(2, 4)
    with pytest.raises(ValueError, match="no sample"):
        score(votes[:0], torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("classes", [5, 6])
def test_top5_is_there_only_above_five_classes(classes):
    votes = torch.arange(classes).float().repeat(classes, 1)  # the first class is the least likely
    found = score(votes, torch.arange(classes))
    expected = {"top1": 1 / classes} | ({"top5": 5 / 6} if classes == 6 else {})
    assert found.metrics == pytest.approx(expected)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_intervals(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("share", "total"), [(0.9, 360), (0.5, 100), (0.97, 360)])
def test_wilson_covers_the_true_share(share, total):
    draws = np.random.default_rng(0).binomial(total, share, 2000)
    inside = [low <= share <= high for low, high in (wilson(int(right), total) for right in draws)]
    assert 0.93 <= np.mean(inside) <= 0.97


def test_chance_and_majority():
    assert chance(torch.tensor([2, 2, 0, 2]), 4) == {"chance": 0.25, "majority": 0.75}
