"""Nearest neighbours and their vote against loops in float64 and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from clctl.evaluate import knn as knn_module
from clctl.evaluate.knn import knn, nearest, vote
from clctl.rng import generator


def clusters(*key, n=60, classes=3, d=5, noise=1.0):
    """Features [n, d] around one centre per class, and their labels."""
    centres = torch.randn(classes, d, generator=generator("centres", classes, d))
    labels = torch.arange(n) % classes
    return centres[labels] + noise * torch.randn(n, d, generator=generator(*key)), labels


def whole_numbers(*key, n, d=4):
    """Rows of small whole numbers of one norm, so that many similarities are equal to the bit."""
    signs = torch.randint(0, 2, (n, d), generator=generator(*key)) * 2.0 - 1
    return signs  # norm 2: the unit rows are +-0.5, whose products are exact


def cosine(x, y):
    norms = math.hypot(*x) * math.hypot(*y)
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / norms if norms else 0.0


def order_oracle(bank, query, without=None):
    """(similarity, index) of every row, best first, of equals the lower index."""
    found = [(cosine(query, x), i) for i, x in enumerate(bank) if i != without]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def vote_oracle(bank, labels, query, without, classes, k, temperature):
    votes = [0.0] * classes
    for similarity, i in order_oracle(bank, query, without)[:k]:
        votes[labels[i]] += math.exp((similarity - 1) / temperature)
    return [share / sum(votes) for share in votes]


def tiles(monkeypatch, queries, bank, group, floats=2**25):
    """Set the sizes of what is looked at at once."""
    for name, size in {"QUERIES": queries, "BANK": bank, "GROUP": group, "FLOATS": floats}.items():
        monkeypatch.setattr(knn_module, name, size)


TILES = [(256, 2**16, 16), (1, 4, 2), (7, 16, 4), (25, 48, 3), (256, 64, 32), (3, 1, 1)]


@pytest.mark.parametrize("sizes", TILES)
@pytest.mark.parametrize("k", [1, 3, 10, 59])
def test_nearest_equals_a_loop_in_float64(monkeypatch, sizes, k):
    tiles(monkeypatch, *sizes)
    bank, _ = clusters("bank")
    queries, _ = clusters("queries", n=25)
    similarity, index = nearest(bank, queries, k)
    assert (similarity.dtype, index.dtype) == (torch.float32, torch.int64)
    expected = [order_oracle(bank.tolist(), q)[:k] for q in queries.tolist()]
    assert index.tolist() == [[i for _, i in row] for row in expected]
    np.testing.assert_allclose(similarity, [[s for s, _ in row] for row in expected], atol=1e-6)


@pytest.mark.parametrize("sizes", TILES)
@pytest.mark.parametrize("k", [1, 4, 59])
def test_nearest_without_queries_leaves_each_row_out(monkeypatch, sizes, k):
    tiles(monkeypatch, *sizes)
    bank, _ = clusters("bank")
    _, index = nearest(bank, None, k)
    rows = bank.tolist()
    expected = [[j for _, j in order_oracle(rows, row, i)[:k]] for i, row in enumerate(rows)]
    assert index.tolist() == expected


@pytest.mark.parametrize("sizes", TILES)
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("k", [1, 5, 90, 199])
def test_of_equal_similarities_the_lower_index_comes_first(monkeypatch, sizes, alone, k):
    tiles(monkeypatch, *sizes)
    bank = whole_numbers("bank", n=200)
    queries = bank if alone else whole_numbers("queries", n=30)
    similarity, index = nearest(bank, None if alone else queries, k)
    for i, (query, near) in enumerate(zip(queries.tolist(), index.tolist(), strict=True)):
        found = order_oracle(bank.tolist(), query, i if alone else None)[:k]
        assert near == [j for _, j in found]
        assert similarity[i].tolist() == [s for s, _ in found]


def test_nearest_equals_scikit_learn_in_many_parts(monkeypatch):
    tiles(monkeypatch, 64, 512, 16)
    bank = torch.randn(3000, 24, generator=generator("bank"))
    queries = torch.randn(200, 24, generator=generator("queries"))
    oracle = NearestNeighbors(n_neighbors=15, algorithm="brute", metric="cosine")
    distance, expected = oracle.fit(bank.double().numpy()).kneighbors(queries.double().numpy())
    similarity, index = nearest(bank, queries, 15)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


def test_wide_features_are_looked_at_in_fewer_rows(monkeypatch):
    bank, _ = clusters("bank", d=40)
    expected = nearest(bank, None, 2)
    looked = []
    unit = knn_module._unit
    monkeypatch.setattr(knn_module, "_unit", lambda x: looked.append(len(x)) or unit(x))
    tiles(monkeypatch, 5, 2**16, 4, floats=40 * 9)
    similarity, index = nearest(bank, None, 2)
    assert max(looked) == 10  # 9 rows, up to whole groups of 2
    assert torch.equal(index, expected[1])
    torch.testing.assert_close(similarity, expected[0], rtol=0, atol=1e-6)


def test_the_row_that_a_query_is_can_be_told():
    bank, _ = clusters("bank")
    some = torch.tensor([3, 59, 0, 17])
    alone = nearest(bank, None, 9)
    part = nearest(bank, bank[some], 9, own=some)
    assert torch.equal(part[1], alone[1][some])
    other = nearest(bank, bank[some], 1, own=some.flip(0))
    assert torch.equal(other[1][:, 0], some)  # finds itself, as it is said to be another


def test_the_norm_of_features_changes_nothing():
    bank, _ = clusters("bank")
    queries, _ = clusters("queries", n=25)
    similarity, index = nearest(bank, queries, 20)
    # Squares of these leave float32 at both ends.
    for scale in (1e-42, 1e-30, 1e30):
        power = 2.0 ** round(math.log2(scale))
        row = torch.where(torch.arange(60) % 2 == 0, power, 1.0)[:, None]
        scaled = nearest(bank * row, queries / queries.abs().max() * power, 20)
        if scale > 1e-40:  # below, float32 has but a few digits
            assert torch.equal(scaled[1], index)
        torch.testing.assert_close(scaled[0], similarity, rtol=0, atol=0.02)


def test_a_row_of_zeros_is_similar_to_nothing():
    bank = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-0.0, 0.0]])
    similarity, index = nearest(bank, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 4)
    assert similarity.tolist() == [[1.0, 0.0, 0.0, -1.0], [0.0] * 4]
    assert index.tolist() == [[1, 0, 3, 2], [0, 1, 2, 3]]
    votes = knn(bank, torch.tensor([0, 0, 1, 1]), None, classes=2)
    assert votes[0].tolist() == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_width_of_float_are_taken(dtype):
    bank, _ = clusters("bank")
    bank = bank.to(dtype).requires_grad_()
    similarity, index = nearest(bank, None, 5)
    expected = nearest(bank.detach().float(), None, 5)
    assert similarity.dtype == torch.float32
    assert not similarity.requires_grad
    assert torch.equal(index, expected[1])


def test_features_are_left_as_they_are():
    bank, _ = clusters("bank")
    bank[4] = 0
    before = bank.clone()
    nearest(bank, bank, 5)
    assert torch.equal(bank, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_counted_and_refused(monkeypatch, bad):
    tiles(monkeypatch, 256, 2**16, 16, floats=5 * 7)
    bank, labels = clusters("bank")
    good = bank.clone()
    bank[[3, 3, 30, 59], [0, 1, 4, 2]] = bad
    with pytest.raises(ValueError, match="3 of 60 rows of the bank are not finite"):
        nearest(bank, good, 5)
    with pytest.raises(ValueError, match="3 of 60 rows of the queries are not finite"):
        knn(good, labels, bank, classes=3)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4,), (4,)), ((4, 0), (4, 0))])
def test_features_of_different_widths_are_refused(shapes):
    bank, queries = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"\[N, D\] and \[M, D\]"):
        nearest(bank, queries, 1)


def test_no_query_has_no_neighbours():
    similarity, index = nearest(torch.eye(3), torch.zeros(0, 3), 2)
    assert similarity.shape == index.shape == (0, 2)
    assert knn(torch.eye(3), torch.arange(3), torch.zeros(0, 3), classes=3).shape == (0, 3)


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
@pytest.mark.parametrize("sizes", TILES)
def test_knn_does_not_depend_on_the_parts(monkeypatch, alone, sizes):
    bank, labels = clusters("bank")
    queries = None if alone else clusters("queries", n=25)[0]
    whole = knn(bank, labels, queries, classes=3)
    tiles(monkeypatch, *sizes)
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


def test_one_search_serves_every_smaller_k_and_temperature():
    bank, labels = clusters("bank")
    queries, _ = clusters("queries", n=25)
    similarity, index = nearest(bank, queries, 40)
    for k in (1, 5, 40):
        for temperature in (0.02, 0.07, 1.0):
            sliced = vote(
                similarity[:, :k], labels[index[:, :k]], classes=3, temperature=temperature
            )
            alone = knn(bank, labels, queries, classes=3, k=k, temperature=temperature)
            torch.testing.assert_close(sliced, alone, rtol=0, atol=1e-6)


def test_a_vote_by_hand():
    half = 0.1 * math.log(2)  # so much less similar, half the weight at temperature 0.1
    similarity = torch.tensor([[0.5, 0.5 - half, 0.5 - 2 * half], [0.0, 0.0, 0.0]])
    labels = torch.tensor([[2, 0, 2], [1, 1, 0]])
    votes = vote(similarity, labels, classes=4, temperature=0.1)
    expected = torch.tensor([[2 / 7, 0, 5 / 7, 0], [1 / 3, 2 / 3, 0, 0]])
    torch.testing.assert_close(votes, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-4, 1e-40])
def test_knn_at_a_low_temperature_lets_the_nearest_decide(temperature):
    bank, labels = clusters("bank")
    queries, _ = clusters("queries", n=25)
    votes = knn(bank, labels, queries, classes=3, temperature=temperature)
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(25))
    first = knn(bank, labels, queries, classes=3, k=1)
    assert torch.equal(votes.argmax(dim=1), first.argmax(dim=1))
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


@pytest.mark.parametrize("label", [-1, 3])
def test_a_vote_for_no_class_is_refused(label):
    labels = torch.tensor([[0, label, 2]])
    with pytest.raises(ValueError, match=r"1 labels of neighbours are not in \[0, 3\)"):
        vote(torch.ones(1, 3), labels, classes=3, temperature=1.0)
