"""Scores over all classes and class by class, against scikit-learn and counts by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from clctl.evaluate.intervals import wilson
from clctl.evaluate.score import chance, confusion, per_class, score
from clctl.rng import generator


def guesses(count, images, lacking=()):
    """Votes [images, count] that lean to the right class, and labels; `lacking` never occur."""
    draw = generator("guesses", count, images)
    labels = torch.randint(count, (2, images), generator=draw).amin(dim=0)  # uneven
    labels[:count] = torch.arange(count)
    for label in lacking:
        labels[labels == label] = (label + 1) % count
    votes = torch.rand(images, count, generator=draw)
    votes[torch.arange(images), labels] += 0.4
    return votes, labels


def test_score_counts_hits():
    votes = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    found = score(votes, torch.tensor([1, 2, 2, 1]))
    assert found.predictions.tolist() == [1, 0, 2, 0]  # of equals the first
    assert found.predictions.dtype == torch.int64
    assert found.metrics == {"top1": 0.5, "balanced_accuracy": 0.5}
    assert found.interval == wilson(2, 4)
    with pytest.raises(ValueError, match="no sample"):
        score(votes[:0], torch.tensor([], dtype=torch.int64))


def test_a_class_without_a_vote_is_no_hit():
    found = score(torch.zeros(2, 6), torch.tensor([0, 1]))
    assert found.metrics == {"top1": 0, "top5": 0, "balanced_accuracy": 0}


@pytest.mark.parametrize("classes", [5, 6])
def test_top5_is_there_only_above_five_classes(classes):
    votes = torch.arange(classes).float().repeat(classes, 1)  # the first class has no vote
    found = score(votes, torch.arange(classes))
    expected = {"top1": 1 / classes, "balanced_accuracy": 1 / classes}
    assert found.metrics == pytest.approx(expected | ({"top5": 5 / 6} if classes == 6 else {}))


@pytest.mark.parametrize(("count", "lacking"), [(2, ()), (7, ()), (7, (0, 3, 6)), (20, (1,))])
def test_scores_equal_scikit_learns(count, lacking):
    votes, labels = guesses(count, 300, lacking)
    votes[:, list(lacking)] = 0  # scikit-learn warns of a class that is named and never occurs
    found = score(votes, labels)
    named, truth = found.predictions.numpy(), labels.numpy()
    assert 0.1 < found.metrics["top1"] < 0.95
    assert found.metrics["top1"] == pytest.approx(metrics.accuracy_score(truth, named))
    balanced = metrics.balanced_accuracy_score(truth, named)
    assert found.metrics["balanced_accuracy"] == pytest.approx(balanced)
    if count > 5:
        top5 = metrics.top_k_accuracy_score(truth, votes.numpy(), k=5, labels=range(count))
        assert found.metrics["top5"] == pytest.approx(top5)


def test_balanced_accuracy_does_not_see_how_frequent_a_class_is():
    votes, labels = guesses(4, 60)
    once = score(votes, labels).metrics
    rows = torch.cat([torch.arange(60), *[torch.nonzero(labels == 3)[:, 0]] * 9])
    often = score(votes[rows], labels[rows]).metrics
    assert often["balanced_accuracy"] == pytest.approx(once["balanced_accuracy"])
    assert often["top1"] != pytest.approx(once["top1"], abs=0.01)


@pytest.mark.parametrize(("count", "lacking"), [(2, ()), (7, (0, 3)), (40, ())])
def test_confusion_equals_scikit_learns(count, lacking):
    votes, labels = guesses(count, 200, lacking)
    named = votes.argmax(dim=1)
    found = confusion(named, labels, count)
    assert found.dtype == torch.int64
    expected = metrics.confusion_matrix(labels, named, labels=range(count))
    np.testing.assert_array_equal(found.numpy(), expected)
    assert torch.equal(confusion(labels, named, count), found.T)


def test_recall_and_precision_of_each_class_equal_scikit_learns():
    votes, labels = guesses(7, 200, lacking=(0, 3))
    votes[:, [3, 5]] = 0  # 0 never occurs, 3 neither occurs nor is named, 5 is never named
    named = votes.argmax(dim=1)
    classes = [f"class {i}" for i in range(7)]
    precision, recall, _, images = metrics.precision_recall_fscore_support(
        labels, named, labels=range(7), zero_division=np.nan
    )
    found = per_class(named, labels, classes)
    assert [row["class"] for row in found] == classes
    assert [row["images"] for row in found] == images.tolist()
    for name, expected in (("recall", recall), ("precision", precision)):
        values = [np.nan if row[name] is None else row[name] for row in found]
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    undefined = [(row["recall"] is None, row["precision"] is None) for row in found]
    assert undefined[0] == (True, False)
    assert undefined[3] == (True, True)
    assert undefined[5] == (False, True)


@pytest.mark.parametrize(
    ("named", "labels", "match"),
    [
        ([0, 3], [0, 1], "classes 0 to 3, of 3"),
        ([0, 1], [-1, 1], "classes -1 to 1, of 3"),
        ([0], [0, 1], "one prediction per label"),
        ([[0, 1]], [[0, 1]], "one prediction per label"),
    ],
)
def test_predictions_that_cannot_be_counted_are_refused(named, labels, match):
    with pytest.raises(ValueError, match=match):
        confusion(torch.tensor(named), torch.tensor(labels), 3)
    with pytest.raises(ValueError, match=match):
        per_class(torch.tensor(named), torch.tensor(labels), "abc")


def test_nothing_predicted_is_an_empty_table():
    none = torch.tensor([], dtype=torch.int64)
    assert torch.equal(confusion(none, none, 2), torch.zeros(2, 2, dtype=torch.int64))
    blank = {"images": 0, "recall": None, "precision": None}
    assert per_class(none, none, ["a", "b"]) == [{"class": "a"} | blank, {"class": "b"} | blank]


def test_chance_and_majority():
    assert chance(torch.tensor([2, 2, 0, 2]), 4) == {"chance": 0.25, "majority": 0.75}
