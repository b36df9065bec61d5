"""Predictions of one model on one part of a data set: read from a file, or made."""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clctl.commands import _features
from clctl.commands._evaluation import Evaluate, Subject, open_subject, stem
from clctl.commands._scoring import Judge, labelled
from clctl.console import Exit, Problem, Talk
from clctl.data import arrayfile
from clctl.evaluate.score import score
from clctl.store import reference
from clctl.store.run import Run

KEYS = ("ids", "labels", "predictions", "classes")


@dataclass(frozen=True)
class Predictions:
    """What a model says of each image.

    Attributes:
        name: For people.
        truth, said: Class name of each image, and the predicted one, by id.
        fingerprint: Of the data, empty where it is not known.
        recipe: What trained the model, where it is known.
        words: Where the predictions come from.
    """

    name: str
    truth: dict[str, str]
    said: dict[str, str]
    fingerprint: str
    recipe: dict[str, Any] | None
    words: str

    def right(self, ids: list[str]) -> np.ndarray:
        """Which images were named rightly: bool [M], in the order of `ids`."""
        return np.array([self.said[i] == self.truth[i] for i in ids], dtype=bool)


def predictions(order: Evaluate, command: str, slug: str, judge: Judge, talk: Talk) -> Predictions:
    """The predictions of a file of them, of a run that keeps them, or new ones.

    Args:
        order: Names the subject; --data and --split apply where it must be scored.
        command, slug, judge: The protocol.
    """
    path = Path(order.ckpt)
    if path.suffix == ".npz" and path.is_file() and _holds_predictions(path):
        home = path.absolute().parent
        return _read(path, home.parent.name if home.name == "evaluations" else path.stem, None)
    recipe = None
    if not _features.is_features(order.ckpt):
        found = reference.find(order.ckpt, talk.say)
        recipe = found.about.get("recipe")
        if found.run is not None and order.data is None:
            kept = _kept(found, order.split, command, slug)
            if kept is not None:
                return _read(kept, found.run.name, recipe)
    subject = open_subject(order, command, talk)
    labelled(subject.bench)
    return _scored(subject, order, command, slug, judge, recipe)


def recorded(run: str, command: str, slug: str, talk: Talk) -> Predictions | None:
    """What the newest checkpoint of a run predicted on its own data, if the run has kept it.

    Args:
        command, slug: The protocol.
    """
    found = reference.find(run, talk.say)
    if found.run is None or (kept := _kept(found, None, command, slug)) is None:
        return None
    return _read(kept, found.run.name, found.about.get("recipe"))


def _scored(
    subject: Subject, order: Evaluate, command: str, slug: str, judge: Judge, recipe: Any
) -> Predictions:
    """Score without baselines."""
    bench = subject.bench
    verdict = judge(bench, "trained")
    result = score(verdict.votes, bench.test.labels)
    classes, ids = bench.classes, bench.test.ids
    name = order.ckpt if subject.run is None else subject.run.name
    return Predictions(
        name=name,
        truth={i: classes[n] for i, n in zip(ids, bench.test.labels.tolist(), strict=True)},
        said={i: classes[n] for i, n in zip(ids, result.predictions.tolist(), strict=True)},
        fingerprint=bench.facts["fingerprint"] if subject.pictures is not None else "",
        recipe=recipe,
        words=f"{command} on {bench.data} {bench.test.name}",
    )


def _kept(found: reference.Found, split: str | None, command: str, slug: str) -> Path | None:
    """The record of this protocol on this checkpoint and its own data, if the run has one."""
    assert found.run is not None
    folder = Run(found.run).evaluations
    for path in sorted(folder.glob(f"{command}-*-{stem(slug)}.npz")):
        arrays = _arrays(path)
        same = {
            "checkpoint": found.sha256,
            "fingerprint": found.about.get("data", {}).get("fingerprint"),
            "asked": split or "",
        }
        if all(key in arrays and str(arrays[key]) == value for key, value in same.items()):
            return path
    return None


def _holds_predictions(path: Path) -> bool:
    return "predictions" in _arrays(path)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            return {name: arrayfile.array(archive, info) for name, info in members.items()}
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zlib.error) as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    except (zipfile.BadZipFile, struct.error) as error:
        raise _damaged(path, f"cannot be read: {error}") from error


def _damaged(path: Path, what: str) -> Problem:
    return Problem(
        f"{path} {what}",
        Exit.DATA,
        "data.wrong-predictions",
        "give a file from a run's evaluations/, with " + ", ".join(KEYS),
    )


def _read(path: Path, name: str, recipe: dict[str, Any] | None) -> Predictions:
    arrays = _arrays(path)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise _damaged(path, f"lacks {', '.join(missing)}")
    ids, labels, said, classes = (arrays[key] for key in KEYS)
    if not (ids.shape == labels.shape == said.shape and ids.ndim == 1 and len(ids)):
        raise _damaged(path, "holds lists of different lengths")
    numbers = np.concatenate([labels, said])
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(classes):
        raise _damaged(path, "holds labels that do not number its classes")
    names = [str(i) for i in ids]
    if len(set(names)) < len(names):
        raise _damaged(path, "names an image twice")
    return Predictions(
        name=name,
        truth=dict(zip(names, map(str, classes[labels]), strict=True)),
        said=dict(zip(names, map(str, classes[said]), strict=True)),
        fingerprint=str(arrays.get("fingerprint", "")),
        recipe=recipe,
        words=str(path),
    )
