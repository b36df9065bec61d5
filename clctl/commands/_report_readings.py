"""What features tell, as sections of a report: a map, mistakes, the spectrum, attention."""

import torch
from torch import Tensor

from clctl.commands import _setup
from clctl.commands._album import picture
from clctl.commands._report_material import SAMPLE, Material, few, predictions
from clctl.console import Exit, Problem
from clctl.encoders._vit import ViT
from clctl.evaluate.diagnostics import rank_me
from clctl.evaluate.features import frozen
from clctl.evaluate.score import confusion as counted
from clctl.evaluate.verdict import geometry
from clctl.report import attention, charts, confusion, spectrum, tsne
from clctl.report.document import percent
from clctl.report.thumbnails import SIDE, broken, escaped, figure, last, strip
from clctl.rng import generator

CLASSES, MISTAKES = 4, 6  # weakest classes, and pictures of each
LOOKED = 6  # pictures whose attention is shown


def mapped(material: Material) -> tuple[str, str]:
    """The features in two dimensions, with the pictures behind the points."""
    count = len(material.test)
    rows = torch.arange(count)
    if count > tsne.MOST:
        rows = (
            torch.randperm(count, generator=generator(0, "report map"))[: tsne.MOST].sort().values
        )
    try:
        places = tsne.laid_out(material.features[rows])
    except ValueError as error:
        raise _lacking(f"There is no map: {error}.") from error
    shown = material.test.take(rows)
    labels = None if material.classes is None else shown.labels
    names = None
    if labels is not None:
        names = [material.label(shown, i) or "" for i in range(len(shown))]
    drawn = tsne.figure(places, labels, material.classes)
    description = f"{len(rows):,} points, one for each picture" + (
        "" if labels is None else ", with a colour and a shape for each class"
    )
    body = tsne.explorer(
        charts.svg(drawn, "Map of the pictures by t-SNE", description),
        places,
        tsne.share(labels),
        shown.ids,
        names,
        (picture(shown, i) for i in range(len(shown))),
    )
    lead = (
        f"Each dot is one of {len(rows):,} pictures of {shown.name}, laid out by t-SNE so that "
        "those the encoder takes for alike lie together."
    )
    if labels is not None:
        lead += " The better the encoder, the more each class keeps to itself."
    note = (
        "<p>Read what lies close by. How far apart two groups lie, how large they are and where on "
        "the map they are means nothing.</p>"
    )
    return lead, f"{body}\n{note}"


def confused(material: Material) -> tuple[str, str]:
    """The classes that the neighbours take for others, and pictures of the weakest."""
    classes, labels = material.classes, material.test.labels
    if classes is None or labels is None:
        known = material.dataset.classes
        why = "have no labels" if not known else f"are all of one class, {known[0]}"
        raise _lacking(f"The pictures {why}: there are no classes to mix up.")
    said = predictions(material)
    table = counted(said, labels, len(classes))
    lead = (
        f"What the neighbours of {material.words} vote for: a row is the true class, a column what "
        "was said. The diagonal is right, all else are mistakes."
    )
    parts = []
    occurs = (table.sum(dim=0) + table.sum(dim=1)).nonzero().flatten()
    if len(occurs) <= confusion.DRAWN:
        drawn = confusion.figure(table[occurs][:, occurs], [str(classes[int(i)]) for i in occurs])
        weak = confusion.worst(table)[0]
        recall = percent(float(table[weak, weak]) / float(table[weak].sum()))
        description = f"{len(occurs)} classes; the weakest is {classes[weak]}, {recall} right"
        chart = charts.svg(drawn, "Confusion matrix", description)
        parts.append(confusion.scrolled(chart, len(occurs)))
    else:
        lead += f" All {len(occurs)} classes would not fit: the pairs below are mixed up most."
    parts.append(confusion.mixed_up(table, classes))
    strips = [_weak(material, said, table, i) for i in confusion.worst(table)[:CLASSES]]
    if any(strips):
        parts += ["<h3>The weakest classes, and pictures of them that were mistaken</h3>", *strips]
    return lead, "\n".join(part for part in parts if part)


def _weak(material: Material, said: Tensor, table: Tensor, which: int) -> str:
    """One class in words, and its mistakes; empty where there are none."""
    test, classes = material.test, material.classes
    assert test.labels is not None
    assert classes is not None
    rows = ((test.labels == which) & (said != which)).nonzero().flatten().tolist()
    if not rows:
        return ""
    figures = []
    for row in rows[:MISTAKES]:
        name, taken = str(test.ids[int(row)]), str(classes[int(said[row])])
        alt = f"{name}, {classes[which]}, taken for {taken}"
        caption = f"taken for <b>{broken(taken)}</b><small>{broken(last(name))}</small>"
        figures.append(figure(picture(test, row), alt, caption, SIDE))
    images = int(table[which].sum())
    words = f"<p><b>{escaped(classes[which])}</b>: {images - len(rows)} of {images} right</p>"
    return f"{words}\n{strip(figures, led=False)}"


def spectra(material: Material) -> tuple[str, str]:
    """Singular values beside those of random weights, and what they say."""
    trained, untrained = material.features[:SAMPLE], material.untrained()
    if len(trained) < 3:
        raise _lacking(f"{len(trained)} pictures are too few for a spectrum.")
    found = geometry(trained)
    features = {"trained": trained, "random weights": untrained}
    rank, rival = rank_me(trained), rank_me(untrained)
    width, possible = trained.shape[1], min(trained.shape)
    lead = (
        f"The features of {len(trained):,} pictures use about {rank:.0f} of {possible} possible "
        f"directions (RankMe {rank:.1f}); with random weights they used {rival:.1f}. "
        f"In a word: {found.verdict}."
    )
    description = (
        f"Share of each of {width} directions, on a log scale, for trained and random weights"
    )
    chart = charts.svg(spectrum.figure(features), "Singular values of the features", description)
    note = (
        "<p>A line that falls slowly uses many directions to tell pictures apart. One that drops "
        "at once has collapsed: whatever is in the picture, the features say little.</p>"
    )
    return lead, f"{chart}\n{note}"


def looks(material: Material) -> tuple[str, str]:
    """Attention of each head, and patches as colours, on a few pictures."""
    vit = material.encoder
    assert isinstance(vit, ViT)
    shown = few(material.test, LOOKED, "report attention")
    views = material.recipe.views
    device = material.where.device
    with frozen(vit):
        x = _setup.preparation(views)(shown.images.to(device))
        maps, colours = attention.attention(vit, x).cpu(), attention.patch_colours(vit, x).cpu()
    shift, scale = torch.tensor([views.mean, views.std])[..., None, None]
    seen = ((x.cpu() * scale + shift) * 255).round().clamp(0, 255).byte()
    warm = attention.warmth(maps)
    rows = []
    for i, name in enumerate(shown.ids):
        figures = [
            figure(
                seen[i],
                f"picture {name}",
                f"<b>picture</b><small>{broken(last(name))}</small>",
                SIDE,
            )
        ]
        for head in range(warm.shape[1]):
            alt = f"attention of head {head + 1} on {name}"
            figures.append(figure(warm[i, head], alt, f"head {head + 1}", SIDE))
        alt = f"patches of {name}, alike in colour where alike in their features"
        figures.append(figure(colours[i], alt, "patches as colours", SIDE))
        rows.append(strip(figures))
    who = "the class token" if vit.pool == "cls" else "an average patch"
    lead = (
        f"How much {who} looks at each patch of {vit.patch} pixels in the last block, for each of "
        f"{warm.shape[1]} heads: bright is much, black is little."
    )
    note = (
        "<p>In the last column, patches with alike features have alike colours, in all pictures: "
        "the first three principal components as red, green and blue. None of this proves what "
        "the features are made of; it is a place to begin looking.</p>"
    )
    return lead, "\n".join([*rows, note])


def _lacking(message: str) -> Problem:
    return Problem(message, Exit.DATA, "report.missing")
