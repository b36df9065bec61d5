"""clctl diagnose: the geometry of features, in numbers and in a word. Needs no labels."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.commands import _features, _setup
from clctl.commands._evaluation import stem
from clctl.commands._pictures import Pictures, seen
from clctl.commands._trained import open_checkpoint
from clctl.console import Exit, Problem, Talk, dump
from clctl.data import embeddings
from clctl.data.open import Trial, load
from clctl.evaluate import diagnostics
from clctl.evaluate.features import frozen
from clctl.evaluate.verdict import Geometry, geometry
from clctl.images import DataSet, Images, Split
from clctl.losses import info_nce
from clctl.recipe.saved import with_data
from clctl.report.document import Report, duration
from clctl.rng import generator
from clctl.store import files
from clctl.store.run import Run
from clctl.views.apply import make

SAMPLE = 4096  # images, or rows of a file, that are read
OBJECTS, VIEWS = 512, 8  # images whose views tell alignment, LiDAR and information
TEMPERATURE = 0.1  # of the InfoNCE that bounds the information
PAIRS = 2048  # rows whose pairs tell uniformity


@dataclass(frozen=True)
class Order:
    """What was typed."""

    subject: str
    data: str | None = None
    split: str | None = None
    device: str = "auto"
    out: Path | None = None
    layers: int | None = None


@dataclass(frozen=True)
class _Read:
    """What is judged: features, those of random weights, and views [n, q, D] of some images."""

    features: Tensor
    untrained: Tensor | None
    views: Tensor | None
    words: str
    facts: dict[str, Any]
    run: Path | None = None


def diagnose(order: Order, talk: Talk) -> Report:
    """Read the features of a checkpoint on pictures, or of any file of features."""
    begun = time.perf_counter()
    read = _file(order) if _features.is_features(order.subject) else _checkpoint(order, talk)
    if len(read.features) < 2:
        raise Problem(
            "one row of features has no geometry", Exit.DATA, "data.too-few", "give more pictures"
        )
    found = geometry(read.features)
    rivals = None if read.untrained is None else _metrics(read.untrained, geometry(read.untrained))
    document: dict[str, Any] = {
        "schema": "clctl/diagnose/1",
        "verdict": found.verdict,
        "rank": found.rank,
        "metrics": {**_metrics(read.features, found), **_of_views(read.views)},
        "baselines": {"random_init": rivals},
        "singular_values": found.singular_values.tolist(),
        "rows": len(read.features),
        "width": read.features.shape[1],
        **read.facts,
        "seconds": time.perf_counter() - begun,
    }
    if order.out is not None:
        files.write(order.out, (dump(document) + "\n").encode())
    if read.run is not None:
        run, name = Run(read.run), stem("diagnose", read.facts["data"]["name"])
        files.make(run.evaluations)
        files.write(run.evaluations / f"{name}.json", (dump(document) + "\n").encode())
    return Report(document, _text(read, document), found.verdict)


def _metrics(z: Tensor, found: Geometry) -> dict[str, Any]:
    unit = F.normalize(z[:PAIRS].double(), dim=1)
    return {
        "rank_me": diagnostics.rank_me(z),
        "feature_std": diagnostics.feature_std(z),
        "feature_spread": found.spread,
        "uniformity": diagnostics.uniformity(unit),
        "dead_dimensions": found.dead,
        "directions_for_99": _directions(found.singular_values, 0.99),
    }


def _directions(values: Tensor, share: float) -> int:
    """How many principal directions hold this share of the variance."""
    variance = values.square().cumsum(dim=0)
    if not float(variance[-1]):
        return 0
    return int((variance < share * variance[-1]).sum()) + 1


def _of_views(views: Tensor | None) -> dict[str, Any]:
    """What two or more views of an image tell; empty for features alone."""
    if views is None:
        return {}
    a, b = views[:, 0], views[:, 1]
    loss = float(info_nce(a.double(), b.double(), temperature=TEMPERATURE))
    return {
        "alignment": diagnostics.alignment(
            F.normalize(a.double(), dim=1), F.normalize(b.double(), dim=1)
        ),
        "lidar": diagnostics.lidar(views),
        "mutual_information_bound": diagnostics.mutual_information_bound(loss, len(a)),
        "mutual_information_ceiling": math.log(len(a)),
    }


def _file(order: Order) -> _Read:
    if order.data is not None:
        raise Problem(
            "--data is for checkpoints; a file of features is read as it is",
            Exit.USAGE,
            "usage.data",
            "leave --data out",
        )
    found = embeddings.read(Path(order.subject))
    rows = torch.arange(len(found.features))
    if order.split is not None:
        rows = torch.tensor([i for i, s in enumerate(found.splits or ()) if s == order.split])
        if not len(rows):
            raise Problem(
                f"{order.subject} has no split {order.split}",
                Exit.DATA,
                "data.no-such-split",
                "leave --split out",
            )
    picked = rows[torch.randperm(len(rows), generator=generator(0, "diagnose"))[:SAMPLE]]
    facts = {"source": {"path": order.subject, "sha256": found.sha256}}
    words = f"{len(picked):,} rows of {order.subject}"
    return _Read(found.features[picked], None, None, words, facts)


def _checkpoint(order: Order, talk: Talk) -> _Read:
    where = _setup.machine(order.device)
    trained = open_checkpoint(order.subject, talk)
    recipe = trained.recipe if order.data is None else with_data(trained.recipe, order.data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    part = _part(dataset, order.split)
    parts = Trial(None, None, part, part.name)
    pictures = Pictures(
        *(trained.recipe, trained.encoder, dataset, parts, where, talk), layers=order.layers
    )
    materials = pictures.materials()
    facts = {
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "split": part.name},
        "checkpoint": {"path": str(trained.found.model), "sha256": trained.found.sha256},
    }
    words = f"{len(part):,} pictures of {dataset.name} {part.name}, {trained.found.model}"
    return _Read(
        materials["trained"]().test,
        materials["random_init"]().test,
        _views(pictures, part.images),
        words,
        facts,
        trained.found.run,
    )


def _part(dataset: DataSet, split: str | None) -> Split:
    """A sample of the split that was named, or of test, else val, else train."""
    names = [split] if split is not None else ["test", "val", "train"]
    name = next((n for n in names if n in dataset.splits), None)
    if name is None:
        raise Problem(
            f"{dataset.name} has no split {split}; it has {', '.join(dataset.splits)}",
            Exit.DATA,
            "data.no-such-split",
            "leave --split out",
        )
    whole = dataset.splits[name]
    if len(whole) <= SAMPLE:
        return whole
    picked = torch.randperm(len(whole), generator=generator(0, "diagnose"))[:SAMPLE]
    return whole.take(picked.sort().values)


def _views(pictures: Pictures, images: Images) -> Tensor | None:
    """Features of VIEWS views of the first images, as the recipe draws them: [n, VIEWS, D]."""
    recipe, device = pictures.recipe, pictures.where.device
    few = images.take(torch.arange(min(OBJECTS, len(images))))
    if len(few) < 2:
        return None
    first = recipe.views.groups[0].model_copy(update={"count": VIEWS})
    policy = recipe.views.model_copy(update={"groups": (first,)})
    batch = make(few, policy, generator(recipe.seed, "diagnose views"), device)
    encoder = seen(pictures.encoder, pictures.layers).to(device)
    with frozen(encoder):
        parts = [torch.cat([encoder(x).float() for x in v.split(256)]) for v in batch.views]
    return torch.stack(parts, dim=1).cpu()


def _text(read: _Read, document: dict[str, Any]) -> str:
    metrics, rival = document["metrics"], document["baselines"]["random_init"]
    beside = "" if rival is None else f" (random-init {rival['rank_me']:.1f})"
    spread = "" if rival is None else f" (random-init {rival['feature_spread']:.2f})"
    width = document["width"]
    lines = [
        f"{document['verdict']}: {read.words}",
        f"  rank      RankMe {metrics['rank_me']:.1f}{beside} of at most "
        f"{min(document['rows'], width)}; {metrics['directions_for_99']} of {width} directions "
        "hold 99 % of the variance",
        f"  spread    {metrics['feature_spread']:.2f}{spread}, where 1 fills the sphere and 0 is "
        f"one point; uniformity {metrics['uniformity']:.2f}",
        f"  dead      {metrics['dead_dimensions']} of {width} dimensions never vary",
    ]
    if "lidar" in metrics:
        lines.append(
            f"  views     alignment {metrics['alignment']:.2f}, LiDAR {metrics['lidar']:.1f}, "
            f"information at least {metrics['mutual_information_bound']:.2f} of "
            f"{metrics['mutual_information_ceiling']:.2f} nats"
        )
    return "\n".join([*lines, f"  took      {duration(document['seconds'])}"])
