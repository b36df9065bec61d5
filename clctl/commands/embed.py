"""clctl embed: the features of every picture, in a file that other tools read."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from clctl.commands import _setup
from clctl.commands._pictures import finite, seen
from clctl.commands._trained import open_checkpoint
from clctl.console import Exit, Problem, Talk
from clctl.data.embeddings import SUFFIXES, metadata
from clctl.data.open import load
from clctl.evaluate.features import chunks, frozen
from clctl.images import DataSet, Split
from clctl.recipe.saved import with_data
from clctl.report.document import Report
from clctl.store import disk, files, reading, tensors

BATCH = 256


@dataclass(frozen=True)
class Order:
    """What was typed."""

    ckpt: str
    out: Path
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    layers: int | None = None


def embed(order: Order, talk: Talk) -> Report:
    """Write features float32 [N, D] with labels, ids and splits; a stopped call is continued.

    Raises:
        Problem: Among others, if the file's suffix is not known, or the split is not there.
    """
    if order.out.suffix not in SUFFIXES:
        raise Problem(
            f"{order.out} does not end in {', '.join(SUFFIXES)}",
            Exit.USAGE,
            "usage.suffix",
            f"-o {order.out.with_suffix('.npz')}",
        )
    where = _setup.machine(order.device)
    trained = open_checkpoint(order.ckpt, talk)
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    parts = _parts(dataset, order.split)
    count = sum(map(len, parts))
    encoder = seen(trained.encoder, order.layers).to(where.device)
    identity = {
        "checkpoint": trained.found.sha256,
        "data": dataset.fingerprint,
        "splits": [part.name for part in parts],
        "layers": order.layers,
    }
    draft = _Draft(order.out, identity)
    talk.say(f"embed of {trained.found.model}: {count:,} pictures of {dataset.name}")
    if draft.rows:
        talk.say(f"  continuing after {draft.rows:,} pictures")
    ready = _setup.preparation(trained.recipe.views)
    with frozen(encoder), talk.task("features of", count, draft.rows) as tick, draft:
        skip = draft.rows
        for part in parts:
            first, skip = min(skip, len(part)), max(0, skip - len(part))
            rest = part.take(torch.arange(first, len(part))) if first else part
            for chunk in chunks(rest.images, BATCH) if len(rest) else ():
                x = ready(chunk.to(where.device)).contiguous(memory_format=torch.channels_last)
                features = encoder(x).float().cpu()
                finite(features, "embed")
                draft.add(features.numpy())
                tick(draft.rows, "images")
    whole = draft.features()
    digest = _write(order.out, whole, parts, dataset.classes)
    draft.drop()
    document: dict[str, Any] = {
        "schema": "clctl/embed/1",
        "path": str(order.out),
        "sha256": digest,
        "features": list(whole.shape),
        "splits": {part.name: len(part) for part in parts},
        "labelled": all(part.labels is not None for part in parts),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "checkpoint": {"path": str(trained.found.model), "sha256": trained.found.sha256},
    }
    shape = " x ".join(map(str, whole.shape))
    splits = ", ".join(f"{len(part):,} {part.name}" for part in parts)
    then = f"{'knn-eval' if document['labelled'] else 'diagnose'} {quote(str(order.out))}"
    text = f"{order.out}: features {shape} ({splits})\n  next      clctl {then}"
    return Report(document, text, str(order.out))


def _parts(dataset: DataSet, split: str | None) -> list[Split]:
    if split in (None, "all"):
        return list(dataset.splits.values())
    if split not in dataset.splits:
        raise Problem(
            f"{dataset.name} has no split {split}; it has {', '.join(dataset.splits)}",
            Exit.DATA,
            "data.no-such-split",
            f"--split {next(iter(dataset.splits))}",
        )
    return [dataset.splits[split]]


class _Draft:
    """Features so far, beside the file that they become; only whole rows of the same work count."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self._rows_file = out.with_name(f".{out.name}.rows")
        self._about = out.with_name(f".{out.name}.about")
        self._identity, self.rows, self.width = identity, 0, 0
        if self._about.exists() and self._rows_file.exists():
            about = json.loads(self._about.read_text("utf-8"))
            self.width = about.pop("width")
            if about == identity:
                self.rows = self._rows_file.stat().st_size // (4 * self.width)
            else:
                self.drop()

    def __enter__(self) -> None:
        with disk.writing(self._rows_file):
            files.make(self._rows_file.absolute().parent)
            self._file = open(self._rows_file, "ab")
            self._file.truncate(self.rows * 4 * self.width)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: np.ndarray) -> None:
        """Append rows, float32 [n, D]."""
        if not self.width:
            self.width = rows.shape[1]
            text = json.dumps({**self._identity, "width": self.width})
            files.write(self._about, text.encode())
        with disk.writing(self._rows_file, rows.nbytes):
            self._file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self.rows += len(rows)

    def features(self) -> np.ndarray:
        """All rows, mapped from the disk."""
        return np.memmap(self._rows_file, "<f4", "r", shape=(self.rows, self.width))

    def drop(self) -> None:
        """Forget them."""
        for path in (self._about, self._rows_file):
            path.unlink(missing_ok=True)
        self.rows = self.width = 0


def _write(
    out: Path, features: np.ndarray, parts: list[Split], classes: tuple[str, ...] | None
) -> str:
    """Put the file in its place, whole or not at all; gives its sha256."""
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{part.name}/{name}" for part in parts for name in part.ids]
    splits = [part.name for part in parts for _ in range(len(part))]
    known = [part.labels for part in parts if part.labels is not None]
    labels = torch.cat(known) if len(known) == len(parts) else None
    if out.suffix == ".safetensors":
        named = {"features": torch.from_numpy(np.array(features))}
        if labels is not None:
            named["labels"] = labels
        tensors.write(out, named, metadata(ids, splits, classes if labels is not None else None))
        return reading.digest(out)
    stream = io.BytesIO()
    if out.suffix == ".npy":
        np.save(stream, features)
        return files.write(out, stream.getvalue())
    arrays: dict[str, Any] = {"ids": np.array(ids), "splits": np.array(splits)}
    if labels is not None:
        arrays |= {"labels": labels.numpy(), "classes": np.array(classes)}
    np.savez(stream, features=features, **arrays)
    return files.write(out, stream.getvalue())
