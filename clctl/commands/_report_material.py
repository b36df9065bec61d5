"""What the picture sections of a report look at: an encoder, pictures, and their features, once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from clctl.commands import _setup
from clctl.commands._pictures import CALIBRATION, Pictures
from clctl.commands._trained import open_checkpoint
from clctl.commands.knn_eval import Neighbours
from clctl.console import Exit, Problem, Talk
from clctl.data.open import Trial, chosen, load, trial
from clctl.evaluate.knn import nearest, vote
from clctl.evaluate.score import score
from clctl.images import DataSet, Split
from clctl.method import Encoder
from clctl.recipe.saved import with_data
from clctl.recipe.sections import Recipe
from clctl.rng import generator

TESTS, BANK = 10_000, 10_000  # pictures that are looked at, and looked among, at most
SAMPLE = 4096  # of them, whose features tell rank and spectrum


class Wanted(Protocol):
    """The words of an order that matter here."""

    @property
    def data(self) -> str | None: ...
    @property
    def device(self) -> str: ...
    @property
    def split(self) -> str | None: ...


@dataclass(frozen=True)
class Material:
    """One encoder before one data set.

    Attributes:
        test: The pictures that are shown.
        train: Those that neighbours are sought among; None: `test` itself, where none finds
            itself.
        classes: None where `test` has no labels, or only one class is known.
        features: Of `test`, float32 [M, D].
        similarity, index: Of the neighbours of each, best first: [M, k], rows of `train`.
        untrained: Gives the features of the first SAMPLE of `test` by random weights.
    """

    recipe: Recipe
    dataset: DataSet
    encoder: Encoder
    where: _setup.Machine
    test: Split
    train: Split | None
    classes: Sequence[str] | None
    features: Tensor
    similarity: Tensor
    index: Tensor
    untrained: Callable[[], Tensor]

    @property
    def bank(self) -> Split:
        """Where neighbours are from."""
        return self.test if self.train is None else self.train

    @property
    def words(self) -> str:
        """The pictures that are shown, in words."""
        return f"{len(self.test):,} pictures of {self.dataset.name} {self.test.name}"

    def label(self, split: Split, row: int) -> str | None:
        """The name of a picture's class."""
        if self.classes is None or split.labels is None:
            return None
        return self.classes[int(split.labels[row])]


def gather(ckpt: str, order: Wanted, talk: Talk) -> Material:
    """Open the checkpoint and its data, or those of --data, and encode the pictures.

    Raises:
        Problem: If one of them is missing or damaged, or there are fewer than two pictures.
    """
    where = _setup.machine(order.device)
    trained = open_checkpoint(ckpt, talk)
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    whole_train, whole_test = _parts(dataset, order.split)
    test = few(whole_test, TESTS, "report test")
    train = None if whole_train is None else few(whole_train, BANK, "report train")
    seen = Pictures(
        trained.recipe, trained.encoder, dataset, Trial(train, None, test, ""), where, talk
    )
    found = seen.materials()["trained"]()
    count = Neighbours().ks[0]
    try:
        if found.train is None:
            similarity, index = nearest(found.test, None, count, where.device)
        else:
            similarity, index = nearest(found.train, found.test, count, where.device)
    except ValueError as error:
        raise Problem(
            f"{dataset.name} has too few pictures to compare: {error}",
            Exit.DATA,
            "data.too-few",
            "give more pictures",
        ) from error
    labelled = test.labels is not None and len(dataset.classes or ()) > 1
    return Material(
        recipe=trained.recipe,
        dataset=dataset,
        encoder=trained.encoder,
        where=where,
        test=test,
        train=train,
        classes=dataset.classes if labelled else None,
        features=found.test,
        similarity=similarity,
        index=index,
        untrained=cache(lambda: _untrained(seen, whole_train)),
    )


def predictions(material: Material) -> Tensor:
    """The class that the neighbours of each picture vote for, as clctl knn-eval counts: int64 [M]."""
    bank = material.bank
    assert bank.labels is not None
    assert material.classes is not None
    assert material.test.labels is not None
    votes = vote(
        material.similarity,
        bank.labels[material.index],
        classes=len(material.classes),
        temperature=Neighbours().temperatures[0],
    )
    return score(votes, material.test.labels).predictions


def few(split: Split, most: int, purpose: str) -> Split:
    """The split, or the same draw of it every time, in order."""
    if len(split) <= most:
        return split
    rows = torch.randperm(len(split), generator=generator(0, purpose))[:most]
    return split.take(rows.sort().values)


def _parts(dataset: DataSet, split: str | None) -> tuple[Split | None, Split]:
    """Train and test as an evaluation takes them; of pictures without labels likewise."""
    if dataset.splits["train"].labels is not None:
        found = trial(dataset, split)
        return found.train, found.test
    names = chosen(dataset.name, list(dataset.splits), split)
    train = None if names.train is None else dataset.splits[names.train]
    return train, dataset.splits[names.test[0]]


def _untrained(seen: Pictures, train: Split | None) -> Tensor:
    """Features by random weights, with the statistics that they have in every score."""
    test = seen.parts.test
    first = test.take(torch.arange(min(len(test), SAMPLE)))
    calibration = None if train is None else train.take(torch.arange(min(len(train), CALIBRATION)))
    parts = Trial(calibration, None, first, "")
    fewer = Pictures(seen.recipe, seen.encoder, seen.dataset, parts, seen.where, seen.talk)
    return fewer.materials()["random_init"]().test
