"""The sections of a report that show pictures, of one checkpoint before one data set.

Each stands alone: what one of them lacks is said in its place, and the others are still there.
"""

import base64
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from clctl.commands._album import picture
from clctl.commands._report_material import Material, Wanted, gather, predictions
from clctl.commands._report_readings import confused, looks, mapped, spectra
from clctl.console import Problem, Talk
from clctl.encoders._vit import ViT
from clctl.report import gallery, tsne
from clctl.report.section import Section
from clctl.report.thumbnails import SIDE, STRIPS, broken, escaped, figure, last, strip
from clctl.rng import generator
from clctl.store import reading
from clctl.store.run import Run
from clctl.views.apply import pictures

ROWS, VIEWS = 5, 8  # originals, and views of each at most
QUERIES, NEAREST = 12, 6


def sections(run: Run, ckpt: str, order: Wanted, talk: Talk) -> list[Section]:
    """The sections; the checkpoint and its data, or those of --data, are opened once for all.

    What is missing or damaged is said by the sections that lack it.
    """
    try:
        material = gather(ckpt, order, talk)
    except Problem as problem:
        rest = [slug for slug in KINDS if slug not in ("views", "attention")]
        return _dressed([_kept(run, problem), *(_without(slug, problem) for slug in rest)])
    asked = [slug for slug in KINDS if slug != "attention" or isinstance(material.encoder, ViT)]
    return _dressed([_made(slug, material) for slug in asked])


def views(material: Material) -> tuple[str, str]:
    """Pictures as they are, and as the method saw them."""
    recipe = material.recipe
    split = material.dataset.learnt(recipe.method.supervised)
    order = torch.randperm(len(split), generator=generator(recipe.seed, "order", 0))
    few = split.take(order[:ROWS])
    made = pictures(few.images, recipe.views, generator(recipe.seed, "views", 0))
    rows = []
    for i, name in enumerate(few.ids):
        label = material.label(few, i)
        known = "" if label is None else f" {broken(label)}"
        caption = f"<b>original</b>{known}<small>{broken(last(name))}</small>"
        figures = [figure(picture(few, i), f"original {name}", caption, SIDE)]
        for j, (pixels, words) in enumerate(made[:VIEWS], 1):
            done = escaped(", ".join(words[i]))
            alt = f"view {j} of {name}: {', '.join(words[i])}"
            figures.append(figure(pixels[i], alt, f"<b>view {j}</b><small>{done}</small>", SIDE))
        rows.append(strip(figures))
    lead = (
        "On the left pictures as they are, beside each the same picture cropped and changed by "
        "chance, as the method saw it."
    )
    if len(made) > 1:
        lead += " It learned that what stands in one row belongs together, whatever was changed."
    if recipe.method.supervised:
        lead += " It also was told the class of each picture."
    return lead, "\n".join(rows)


def neighbours(material: Material) -> tuple[str, str]:
    """Some test pictures beside the nearest of train."""
    test, bank = material.test, material.bank
    among = "the others" if material.train is None else f"{len(bank):,} pictures of {bank.name}"
    lead = (
        f"On the left a picture of {test.name}, beside it the {NEAREST} of {among} whose features "
        "are most like its own: 1 is the same direction, 0 is nothing in common."
    )
    if material.classes is None:
        rows = spread(torch.zeros(len(test), dtype=torch.int64), QUERIES)
        return lead, gallery.strips([_row(material, i) for i in rows], SIDE)
    lead += f" Neighbours of another class have a frame and the sign {gallery.SIGN}."
    assert test.labels is not None
    said = predictions(material)
    right = said == test.labels
    wrong_rows, right_rows = (~right).nonzero().flatten(), right.nonzero().flatten()
    half = QUERIES // 2
    count = max(half, QUERIES - len(right_rows))
    mistaken = wrong_rows[spread(test.labels[wrong_rows], count)].tolist()
    known = right_rows[spread(test.labels[right_rows], QUERIES - len(mistaken))].tolist()
    parts = [
        "<p>Both kinds were picked, spread over the classes; how often the neighbours are right is "
        f"another number: {int(right.sum()):,} of {len(right):,} pictures.</p>"
    ]
    for title, rows in (("Named right by their neighbours", known), ("Named wrong", mistaken)):
        if rows:
            strips = gallery.strips([_row(material, i, said) for i in rows], SIDE)
            parts.append(f"<h3>{title}</h3>\n{strips}")
    return lead, "\n".join(parts)


def spread(labels: Tensor, count: int) -> list[int]:
    """Up to `count` rows drawn in turn from each class, the same every time, in order.

    Args:
        labels: int64 [N].
    """
    order = torch.randperm(len(labels), generator=generator(0, "report rows"))
    turns: dict[int, int] = {}
    ranked = []
    for row in order.tolist():
        label = int(labels[row])
        turns[label] = turns.get(label, -1) + 1
        ranked.append((turns[label], len(ranked), row))
    return sorted(row for _, _, row in sorted(ranked)[:count])


def _row(material: Material, row: int, said: Tensor | None = None) -> list[gallery.Shown]:
    """A picture, with what its neighbours named it where that is wrong, and they themselves."""
    test, bank = material.test, material.bank
    label = material.label(test, row)
    words = label
    if said is not None and material.classes is not None:
        named = material.classes[int(said[row])]
        words = label if named == label else f"{label}, named {named}"
    shown = [gallery.Shown(last(test.ids[row]), words, picture(test, row))]
    near = material.index[row, :NEAREST].tolist()
    for value, at in zip(material.similarity[row].tolist(), near, strict=False):
        own = material.label(bank, int(at))
        wrong = label is not None and own != label
        name = last(bank.ids[int(at)])
        shown.append(gallery.Shown(name, own, picture(bank, at), value, wrong))
    return shown


Maker = Callable[[Material], tuple[str, str]]
"""Gives the lead and the body of a section, or raises a Problem that says what it lacks."""

KINDS: dict[str, tuple[str, Maker]] = {
    "views": ("What the method saw", views),
    "neighbours": ("Which pictures it takes for alike", neighbours),
    "map": ("A map of the pictures", mapped),
    "confusion": ("Which classes are mixed up", confused),
    "spectrum": ("How many directions the features use", spectra),
    "attention": ("Where the transformer looks", looks),
}


def _made(slug: str, material: Material) -> Section:
    title, make = KINDS[slug]
    try:
        return Section(slug, title, *make(material))
    except Problem as problem:
        return _without(slug, problem)


def _without(slug: str, problem: Problem) -> Section:
    return Section(slug, KINDS[slug][0], "", "", missing=problem.message)


def _kept(run: Run, problem: Problem) -> Section:
    """The views that the run drew when it began, where they cannot be drawn anew."""
    path = run.pictures / "views.png"
    try:
        held = base64.b64encode(reading.content(path)).decode()
    except Problem:
        return _without("views", problem)
    lead = "On the left pictures as they are, beside each the same picture as the method saw it."
    image = f'<img alt="pictures and their views" src="data:image/png;base64,{held}">'
    return Section("views", KINDS["views"][0], lead, f"<p>{image}</p>")


def _dressed(found: list[Section]) -> list[Section]:
    """The first section that has a body brings the style of all."""
    for i, section in enumerate(found):
        if section.body:
            style = f"<style>\n{STRIPS}\n{tsne.STYLE}\n</style>\n"
            return [*found[:i], replace(section, body=style + section.body), *found[i + 1 :]]
    return found
