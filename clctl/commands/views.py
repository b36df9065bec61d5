"""clctl views: a picture of what the encoder will see."""

import io
from pathlib import Path

import torch
from torch import Tensor

from clctl.commands import _setup
from clctl.console import Talk
from clctl.data.open import load
from clctl.images import Split
from clctl.recipe.read import find, read
from clctl.recipe.sections import Recipe
from clctl.report.document import Report
from clctl.report.pictures import grid
from clctl.rng import generator
from clctl.store import files
from clctl.views.apply import pictures

ROWS = 8


def views(
    name: str,
    overrides: tuple[str, ...],
    data: str | None,
    device: str,
    out: Path,
    talk: Talk,
) -> Report:
    """Write the grid original / view 1 / view 2 of the first images that a run would see."""
    recipe = read(find(name), overrides, data)
    where = _setup.machine(device, recipe.train.precision)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    split = dataset.learnt(recipe.method.supervised)
    files.make(out.parent)
    few, drawn = draw(recipe, split, dataset.classes, where.device, out)
    document = {
        "schema": "clctl/views/1",
        "picture": str(out),
        "images": [
            {"id": name, "views": [words[i] for _, words in drawn]}
            for i, name in enumerate(few.ids)
        ],
    }
    return Report(document, f"{len(few)} images, {recipe.views.count} views each: {out}", str(out))


def draw(
    recipe: Recipe,
    split: Split,
    classes: tuple[str, ...] | None,
    device: torch.device,
    out: Path,
) -> tuple[Split, list[tuple[Tensor, list[list[str]]]]]:
    """Write the grid of a recipe on some data; gives the pictures and views in it."""
    order = torch.randperm(len(split), generator=generator(recipe.seed, "order", 0))
    few = split.take(order[:ROWS])
    drawn = pictures(few.images.to(device), recipe.views, generator(recipe.seed, "views", 0))
    picture = io.BytesIO()
    grid(few, classes, drawn, picture)
    files.write(out, picture.getvalue())
    return few, drawn
