"""What a row of a sweep says of its run: facts of the recipe, scores, speed, machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clctl.commands import _setup, _sweep_row
from clctl.commands._evaluation import stem
from clctl.commands._predictions import recorded
from clctl.commands._report_read import Seen, at, number, words
from clctl.commands._report_read import read as look
from clctl.commands._sweep_row import Row
from clctl.commands.knn_eval import PROTOCOLS
from clctl.console import Talk
from clctl.method import Batch, Clock
from clctl.recipe.identity import digest, weights_part
from clctl.recipe.plugins import card, known, module
from clctl.recipe.sections import Recipe
from clctl.store import documents, reading

# Column, command, its protocol in a file's name, and what is typed to get it.
EVALUATIONS = (
    ("knn", "knn-eval", PROTOCOLS["clctl"].slug, ("--protocol", "clctl")),
    ("knn_lightly", "knn-eval", PROTOCOLS["lightly"].slug, ("--protocol", "lightly")),
    ("linear", "linear-probe", "cached", ("--protocol", "cached")),
)
FEWEST = 4  # images that `passes` encodes: two classes of two


@dataclass(frozen=True)
class Asked:
    """One recipe with one seed.

    Attributes:
        name: Of the recipe, for people.
        recipe: None where it is not valid, and `why` tells.
    """

    name: str
    seed: int
    recipe: Recipe | None
    why: str = ""
    exit: int = 0

    @property
    def stem(self) -> str:
        """The name of the run's folder."""
        return f"{slug(self.name)}-{self.seed}"

    @property
    def digest(self) -> str:
        """Of the recipe as it is asked for, without what only names and watches it."""
        if self.recipe is None:
            return ""
        part = weights_part(self.recipe, "", self.recipe.encoder.weights)
        return digest({**part, "data": self.recipe.data.model_dump(mode="json")})


def slug(name: str) -> str:
    """The name of a recipe, safe as a file's."""
    return stem(name).lstrip("._-") or "recipe"


def undone(asked: Asked, folder: Path, state: str, why: str, exit: int) -> Row:
    """The row of a run that is not done."""
    seen = look(folder) if reading.exists(folder / "run.json") else None
    found = {} if seen is None else _of_run(seen)
    return Row.model_validate(
        {**_of_recipe(asked), **found, "state": state, "why": why, "exit": exit}
    )


def done(asked: Asked, folder: Path, notes: list[str], talk: Talk) -> Row:
    """The row of a run that is done, whose evaluations lie in its folder."""
    seen = look(folder)
    kept = {
        column: evaluation(folder, command, slug, talk) for column, command, slug, _ in EVALUATIONS
    }
    scores = {column: _sweep_row.score(document) for column, document in kept.items()}
    rank = number(at(kept["knn"], "collapse", "rank_me"))
    return Row.model_validate(
        {
            **_of_recipe(asked),
            **_of_run(seen),
            **{column: score and score.model_dump() for column, score in scores.items()},
            "rank_me": at(seen.outcome, "metrics", "rank_me") if rank is None else rank,
            "passes": passes(asked.recipe) if asked.recipe else None,
            "state": "done",
            "why": "; ".join(notes),
        }
    )


def evaluation(folder: Path, command: str, slug: str, talk: Talk) -> dict[str, Any]:
    """What the run keeps of this protocol for its newest checkpoint on its own data; else empty."""
    found = recorded(str(folder), command, slug, talk)
    path = None if found is None else Path(found.words).with_suffix(".json")
    return {} if path is None or not path.is_file() else documents.read(path, "sweep.evaluation")


def passes(recipe: Recipe) -> float:
    """How often an encoder or a copy of it reads a view, or a patch, for one image of a step."""
    method = _setup.method(recipe)
    rows: list[int] = []

    def count(read: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        rows.append(len(inputs[0]))

    for part in method.modules():
        if type(part) is type(method.encoder):
            part.register_forward_hook(count)
    batch = FEWEST
    while True:
        rows.clear()
        views = tuple(torch.rand(batch, 3, size, size) for size in recipe.views.sizes)
        try:
            with torch.no_grad():
                method(Batch(views, torch.arange(batch) // 2), Clock(0, 100, 10))
            return sum(rows) / batch
        except ValueError:  # too few for its groups of batch norm
            if batch >= recipe.train.batch_size:
                raise
        batch *= 2


def _of_recipe(asked: Asked) -> dict[str, Any]:
    """The facts that need no run."""
    found: dict[str, Any] = {
        "schema": _sweep_row.SCHEMA,
        "recipe": asked.name,
        "seed": asked.seed,
        "asked": asked.digest,
    }
    if (recipe := asked.recipe) is None:
        return found
    said = card(known("clctl.methods")[module(recipe.method.name)])
    year = said.get("Year", "")
    return {
        **found,
        "method": recipe.method.name,
        "year": int(year) if year.isdecimal() else None,
        "negatives": said.get("Negatives", ""),
        "views": recipe.views.count,
        "encoder": recipe.encoder.name,
        "data": Path(p).name if (p := getattr(recipe.data, "path", None)) else recipe.data.name,
    }


def _of_run(seen: Seen) -> dict[str, Any]:
    """The facts that its files tell."""
    part = at(seen.state, "identity") or {}
    steps = number(seen.outcome.get("steps") or seen.last.get("step"))
    batch, rate = at(part, "train", "batch_size"), number(seen.last.get("images_per_second"))
    seconds = None
    if steps and batch:
        resumes = seen.state.get("resumes") or []
        seconds = _sweep_row.seconds(seen.records, resumes, int(steps), batch)
    device = words(seen.state.get("device"))
    precision = [word for word in device.split(", ") if word in ("bf16", "fp32")]
    return {
        "digest": digest({key: value for key, value in part.items() if key != "seed"}),
        "steps": None if steps is None else int(steps),
        "seconds": seconds,
        "images_per_second": steps * batch / seconds if seconds and steps else rate,
        "memory": words(seen.outcome.get("memory")),
        "hardware": _sweep_row.hardware(device),
        "precision": precision[0] if precision else "",
        "date": (words(seen.last.get("time")) or words(seen.state.get("started_utc")))[:10],
        "clctl": words(at(seen.manifest, "environment", "clctl")),
    }
