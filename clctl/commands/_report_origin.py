"""Where a run comes from, on its report page: its recipe, versions, machine, and how to repeat it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clctl.commands._report_read import Seen, at, words
from clctl.console import Problem, dump
from clctl.recipe.identity import changes, digest, resolved
from clctl.recipe.read import packaged, read
from clctl.recipe.saved import from_resolved
from clctl.report.document import duration
from clctl.report.page.render import Table, fragment, table
from clctl.report.section import Section

PLACES = (("data", "path"), ("data", "root"), ("encoder", "weights"))
"""Keys that hold places of a machine: of them the last part is shown."""
QUIET = ("--json", "-q", "--quiet")

WORDS = (
    ("encoder, features", "The network, and the list of numbers that it makes of a picture. Training is meant to give similar pictures similar numbers."),
    ("untrained, random-init", "The same network with the random weights that it had before training. What it scores costs nothing, so training must beat it."),
    ("raw pixels", "The same score from the pictures themselves, shrunk, without any network. Easy data are easy for it too."),
    ("guessing, chance", "What naming classes at random gets: 10 % of ten classes."),
    ("95 % interval", "With as many test pictures as there were, the true share lies in it 95 times of 100. Two scores whose intervals overlap may be equal."),
    ("kNN, nearest neighbours", "A picture gets the name that most of the training pictures with the most similar features have. Nothing is trained for it."),
    ("linear probe", "A linear classifier is trained on the features; the network stays as it is."),
    ("loss", "What training makes smaller. What it is depends on the method, so losses of two methods cannot be compared."),
    ("spread", "How far apart the features of different pictures are: 0 is one point, 1 as far as can be."),
    ("RankMe, rank", "Along how many directions the features vary; more is more detail, but not always better."),
    ("collapse", "The network gives all pictures nearly the same features. The loss can look good, and the features are useless."),
)  # fmt: skip


def recipe(seen: Seen) -> Section:
    """What differs from the packaged recipe, and the whole."""
    slug, title = "recipe", "What was set differently"
    lead = "The values that differ from the recipe that comes with clctl for this method."
    if not seen.recipe:
        return Section(slug, title, lead, "", seen.lost["recipe.resolved.json"])
    whole = fragment("recipe.html", text=dump(_placeless(seen.recipe)), name="")
    method, typed = words(at(seen.recipe, "method", "name")), _typed(seen)
    known = packaged()
    name = next((n for n in (*typed[1:2], method) if n in known), None)
    if name is None:
        why = f"no recipe comes with clctl for {method or 'a method without a name'}"
        return Section(slug, title, lead, whole, why)
    try:
        rival = resolved(read(known[name], (), words(seen.state.get("data")) or None))
    except Problem as problem:
        return Section(slug, title, lead, whole, problem.message)
    rows = [
        [key, here, there]
        for key, there, here in changes(_placeless(rival), _placeless(seen.recipe))
        if key != "name"
    ]
    lead = f"The values that differ from the recipe {name}, which comes with clctl."
    if not rows:
        lead = f"Nothing: every value is that of the recipe {name}, which comes with clctl."
    heads = ("key", "here", "in the packaged recipe")
    made = table(Table(f"This run and the packaged recipe {name}", heads, rows)) if rows else ""
    return Section(slug, title, lead, made + whole)


def recipes(runs: Sequence[Seen]) -> Section:
    """The values in which several runs differ."""
    slug, title = "recipe", "What was set differently"
    lead = "The values of the recipes in which these runs differ; all others are the same."
    told = [seen for seen in runs if seen.recipe]
    if len(told) < 2:
        return Section(slug, title, lead, "", "fewer than two recipes could be read")
    first, *others = (_placeless(seen.recipe) for seen in told)
    found = [{k: (old, new) for k, old, new in changes(first, other)} for other in others]
    keys = sorted({key for each in found for key in each} - {"name"})
    rows = []
    for key in keys:
        base = next(each[key][0] for each in found if key in each)
        rows.append([key, base, *(each[key][1] if key in each else base for each in found)])
    heads = ("key", *(seen.name for seen in told))
    if not rows:
        lead = "Nothing: the recipes are the same."
    return Section(slug, title, lead, table(Table("The recipes", heads, rows)) if rows else "")


def provenance(seen: Seen) -> Section:
    """What made the run, and the command that makes it again."""
    rows = [[key, value] for key, value in _facts(seen).items() if value]
    lead = "What is needed to make this run again, and to know that it is the same one."
    body = table(Table("Origin", ("fact", "value"), rows)) if rows else ""
    if (command := _command(seen)) is not None:
        title, said, line = command
        body += fragment("command.html", title=title, words=said, command=line)
    missing = None if rows else "neither run.json nor a checkpoint's manifest.json could be read"
    return Section("origin", "Where it comes from", lead, body, missing)


def origins(runs: Sequence[Seen]) -> Section:
    """The same for several runs, without the commands: each has them on its own page."""
    slug, title = "origin", "Where they come from"
    lead = "What made these runs; the page of each alone has the command that makes it again."
    facts = [_facts(seen) for seen in runs]
    rows = [[key, *(each[key] for each in facts)] for key in facts[0]]
    kept = [row for row in rows if any(row[1:])]
    names = ("fact", *(seen.name for seen in runs))
    missing = None if kept else "none of the runs says where it comes from"
    return Section(slug, title, lead, table(Table("Origin", names, kept)) if kept else "", missing)


def glossary() -> Section:
    """The words of the page."""
    lead = "What the words on this page mean."
    return Section("words", "Words", lead, fragment("words.html", words=WORDS))


def _facts(seen: Seen) -> dict[str, str]:
    state, made = seen.state, at(seen.manifest, "environment") or at(seen.outcome, "environment")
    identity = at(state, "identity") or {}
    data = at(identity, "data") or at(seen.manifest, "data")
    versions = [
        f"{n} {words(at(made, n))}"
        for n in ("clctl", "torch", "torchvision", "python")
        if at(made, n)
    ]
    machine = [words(at(made, n)) for n in ("system", "machine")]
    seconds, step = at(seen.outcome, "seconds"), at(seen.manifest, "step")
    seed = at(seen.recipe, "seed")
    return {
        "method": words(at(seen.recipe, "method", "name")),
        "encoder": words(at(seen.recipe, "encoder", "name")),
        "data": seen.data,
        "data's fingerprint": words(at(data, "fingerprint")),
        "seed": str(seed) if type(seed) is int else "",
        "run's identity": digest(identity) if identity else "",
        "state": seen.status,
        "started": words(state.get("started_utc")),
        "training took": duration(seconds) if isinstance(seconds, float) else "",
        "versions": ", ".join(versions),
        "machine": ", ".join(w for w in (*machine, words(state.get("device"))) if w),
        "newest checkpoint": f"step {step:,}" if type(step) is int else "",
        "its sha256": seen.weights or "",
        "started from": words(state.get("init_from")),
    }


def _typed(seen: Seen) -> list[str]:
    """The arguments that started the run, without those that only shape what is printed."""
    given = seen.state.get("command")
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        return []
    return [word for word in given if word not in QUIET]


def _command(seen: Seen) -> tuple[str, str, str] | None:
    """Heading, words and the line that makes the run again."""
    typed = _typed(seen)
    whole = typed[:1] == ["pretrain"] and len(typed) > 1 and not seen.state.get("resumed_from")
    if whole and (typed[1] in packaged() or typed[1].endswith((".yaml", ".yml", ".json"))):
        said = (
            "As it was typed; on the same kind of machine it gives the same weights, bit for bit."
        )
        return "To make it again", said, shlex.join(["clctl", *typed])
    if not seen.recipe:
        return None
    again = [
        "clctl",
        "pretrain",
        f"{seen.name}/recipe.resolved.json",
        "--out",
        f"{seen.name}-again",
    ]
    if start := words(seen.state.get("init_from")):
        again += ["--init-from", start]
    said = "From the recipe in the run's folder, beside it: the run was started in several goes."
    return "To make it again", said, shlex.join(again)


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the defaults that versions since have added; as it is if it cannot be read."""
    try:
        return resolved(from_resolved(document, "the recipe"))
    except Problem:
        return document


def _placeless(document: dict[str, Any]) -> dict[str, Any]:
    """The recipe with no more of a path than its last part: others will read the page."""
    found = dict(_whole(document))
    for section, key in PLACES:
        if isinstance(place := at(found, section, key), str):
            found[section] = {**found[section], key: Path(place).name}
    return found
