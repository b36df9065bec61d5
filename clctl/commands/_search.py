"""What clctl neighbors looks for, and where: a checkpoint's pictures, or a file's features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clctl.commands import _album, _setup
from clctl.commands._album import Album
from clctl.commands._pictures import finite
from clctl.commands._trained import Trained, open_checkpoint
from clctl.console import Exit, Problem, Talk
from clctl.data import embeddings
from clctl.data.open import Names, chosen, load
from clctl.evaluate.features import extract
from clctl.images import Split
from clctl.recipe.read import find, read
from clctl.recipe.saved import with_data
from clctl.rng import generator

QUERIES = 12


@dataclass(frozen=True)
class Order:
    """What was typed."""

    subject: str
    data: str | None = None
    queries: tuple[Path, ...] = ()
    split: str | None = None
    device: str = "auto"
    out: Path | None = None


@dataclass(frozen=True)
class Search:
    """Where to look, and for what.

    Attributes:
        asked: Rows of `queries` that are looked for, int64 [Q].
        alone: Whether the queries are the bank itself, and none may find itself.
    """

    bank: Album
    queries: Album
    asked: Tensor
    alone: bool

    @property
    def title(self) -> str:
        """The same in words."""
        where = "the others" if self.alone else self.bank.name
        return (
            f"{len(self.asked)} pictures of {self.queries.name}, and the nearest of {where} "
            "by cosine similarity"
        )


def draw(count: int) -> Tensor:
    """The same rows every time, in order."""
    return torch.randperm(count, generator=generator(0, "neighbors"))[:QUERIES].sort().values


def of_checkpoint(order: Order, talk: Talk) -> tuple[Search, dict[str, Any]]:
    """A checkpoint before its data, or those of --data; and what the report says of it."""
    where = _setup.machine(order.device)
    trained = open_checkpoint(order.subject, talk)
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    names = chosen(dataset.name, list(dataset.splits), order.split)

    def seen(parts: Sequence[Split], name: str) -> Album:
        made = [_encoded(trained, part, where.device, talk) for part in parts]
        albums = [
            _album.of_split(name, p, dataset.classes, f) for p, f in zip(parts, made, strict=True)
        ]
        return albums[0] if len(albums) == 1 else _album.joined(name, parts, albums)

    test = [dataset.splits[name] for name in names.test]
    name = f"{dataset.name} {test[0].name if len(test) == 1 else 'all'}"
    train = None if names.train is None else dataset.splits[names.train]
    bank = seen(test, name) if train is None else seen([train], f"{dataset.name} {train.name}")
    source = {
        "path": str(trained.found.model),
        "sha256": trained.found.sha256,
        "fingerprint": dataset.fingerprint,
    }
    if order.queries:
        parts = _album.files(order.queries, _album.bounds(recipe))
        queries = seen(parts, "--query")
        return Search(bank, queries, torch.arange(len(parts)), alone=False), source
    if train is None:
        return Search(bank, bank, draw(len(bank.ids)), alone=True), source
    few = test[0].take(draw(len(test[0])))
    return Search(bank, seen([few], name), torch.arange(len(few)), alone=False), source


def _encoded(trained: Trained, part: Split, device: torch.device, talk: Talk) -> Tensor:
    with talk.task(f"features of {part.name}", len(part)) as tick:
        found = extract(
            trained.encoder.to(device),
            part.images,
            _setup.preparation(trained.recipe.views),
            device,
            tick=lambda done: tick(done, "images"),
        )
    finite(found, f"features of {part.name}")
    return found


def of_features(order: Order, talk: Talk) -> tuple[Search, dict[str, Any]]:
    """A file of features, with the pictures of --data; and what the report says of it."""
    path = Path(order.subject)
    if order.queries:
        raise Problem(
            f"--query needs an encoder, and {path} is a file of features",
            Exit.USAGE,
            "usage.query",
            "name the checkpoint instead",
        )
    dataset = None
    if order.data is not None:
        recipe = read(find("folder"), (), order.data)  # for its data section alone
        dataset = load(recipe.data, recipe.views.size, talk.say)
    elif order.out is not None:
        raise Problem(
            f"{path} holds features and no pictures to show",
            Exit.USAGE,
            "usage.no-pictures",
            "give those that it was made from: --data FOLDER",
        )
    found = embeddings.read(path)
    splits = found.splits or ("all",) * len(found.ids)
    known = [name for name in (*embeddings.SPLITS, "all") if name in splits]
    names = chosen(path.stem, known, order.split) if "train" in known else None
    names = names or Names(None, None, tuple(known), "all samples on themselves")

    def album(wanted: tuple[str, ...]) -> Album:
        rows = torch.tensor([i for i, name in enumerate(splits) if name in wanted])
        part = wanted[0] if len(wanted) == 1 else "all"
        return _album.of_rows(f"{path.stem} {part}", found, rows, dataset)

    source = {"path": str(path), "sha256": found.sha256, "features": True}
    queries = album(names.test)
    bank = queries if names.train is None else album((names.train,))
    return Search(bank, queries, draw(len(queries.ids)), names.train is None), source
