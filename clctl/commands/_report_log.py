"""The log of runs on a report page: one chart for each quantity, and what happened on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clctl.commands._guard import Guard
from clctl.commands._report_read import Seen, at, number
from clctl.commands._report_verdict import headline
from clctl.console import Problem, Talk
from clctl.recipe import sections as recipe
from clctl.report import charts
from clctl.report.curves import Level, Line, Mark, curve
from clctl.report.page.render import fragment
from clctl.report.section import Section

SLUG, TITLE = "curves", "How training went"
LEAD = (
    "Each chart shows one quantity from the start of training, on the left, to its end. An epoch is one "
    "pass over all training pictures."
)


@dataclass(frozen=True)
class Quantity:
    """One chart.

    Attributes:
        key: Of the log's records.
        levels: Keys of values to compare with, and what they are called.
        floor: Whether its scale begins at 0.
    """

    key: str
    title: str
    caption: str
    levels: tuple[tuple[str, str], ...] = ()
    floor: bool = True


QUANTITIES = (
    Quantity(
        "loss",
        "Loss",
        "What training makes smaller. Beside it, where the method has one, the loss of a network that "
        "tells no two pictures apart.",
        (("loss_chance", "tells nothing apart"), ("loss_ideal", "the best there is")),
        floor=False,
    ),
    Quantity(
        "knn",
        "Right names, within the training set",
        "Share of some training pictures that get their right name from others most like them. A sign "
        "of learning, not the score.",
        floor=False,
    ),
    Quantity(
        "spread",
        "Spread of the projections",
        "How far apart the network puts different pictures where the loss looks: 0 is all in one point, "
        "1 fills the sphere. A fall to 0 is collapse.",
    ),
    Quantity(
        "feature_spread",
        "Spread of the features",
        "The same for the features that are used later: how much they vary around their mean.",
    ),
    Quantity(
        "feature_rank",
        "Rank of the features",
        "Along how many directions the features vary. A fall to 1 or 2 is collapse.",
    ),
    Quantity("lr", "Learning rate", "How large the steps of training are; set by the recipe."),
    Quantity(
        "images_per_second",
        "Pictures per second",
        "How fast it trained, on average since the last start.",
    ),
)


@dataclass(frozen=True)
class Event:
    """Something on the way: a "resume", or a "warning" of the guard."""

    kind: str
    step: int
    words: str


def section(runs: Sequence[Seen]) -> Section:
    """The charts of one run, or of several together."""
    if not any(seen.records for seen in runs):
        why = runs[0].lost.get("metrics.jsonl", "the log is empty")
        return Section(SLUG, TITLE, LEAD, "", why)
    figures = [made for quantity in QUANTITIES if (made := _chart(quantity, runs)) is not None]
    body = fragment("figures.html", figures=figures)
    told = [
        (e.step, (f"{s.name}: " if len(runs) > 1 else "") + e.words)
        for s in runs
        for e in events(s)
    ]
    if told:
        body += fragment("events.html", events=told)
    unlogged = [seen.name for seen in runs if not seen.records]
    lead = LEAD + (f" No log could be read of {', '.join(unlogged)}." if unlogged else "")
    return Section(SLUG, TITLE, lead, body)


def events(seen: Seen) -> list[Event]:
    """Where a run was continued, and what the guard said, in the order of the steps."""
    known = at(seen.state, "resumes")
    if not isinstance(known, list):
        known = [at(seen.state, "resumed_from")]
    resumes = [s for s in known if type(s) is int and s > 0 and s != seen.total]
    found = [Event("resume", s, "continued here after a stop") for s in resumes]
    return sorted([*found, *_warnings(seen)], key=lambda e: e.step)


class _Heard(Talk):
    """Keeps what the guard says."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _warnings(seen: Seen) -> list[Event]:
    """What the guard said, found by judging the log again; nothing of runs that kept no step 0."""
    first, total = seen.state.get("first"), seen.total
    heard, found, step = _Heard(), list[Event](), 0
    if not isinstance(first, dict) or total is None:
        return []

    def keep(text: str) -> None:
        words = text.removeprefix("warning: ").replace(f" at step {step:,}", "")
        found.append(Event("warning", step, words))

    try:
        rules = recipe.Guard.model_validate(seen.recipe["guard"])
        armed = round(seen.recipe["schedule"]["warmup"] * total)
        guard = Guard(rules, first, armed, total // 2, heard)
        for record in seen.records:
            heard.said.clear()
            step = record["step"]
            guard.judge(record)
            for text in heard.said:
                keep(text)
    except Problem as problem:
        keep(problem.message)
    except (KeyError, TypeError, ValueError):
        keep("from here on the log is of another version, and could not be judged again")
    return found


def _chart(quantity: Quantity, runs: Sequence[Seen]) -> tuple[str, str, str] | None:
    """Heading, SVG and caption; None where no run has logged the quantity."""
    by_epoch = all(number(r.get("epoch")) is not None for seen in runs for r in seen.records)
    across = "epoch" if by_epoch else "step"
    lines: list[Line] = []
    for seen in runs:
        rows = [r for r in seen.records if quantity.key != "knn" or "knn" in r]
        y = [number(r.get(quantity.key)) for r in rows]
        if any(value is not None for value in y):
            x = [float(r[across]) for r in rows]
            name = seen.name if len(runs) > 1 else _own(quantity)
            lines.append(Line(name, x, [math.nan if v is None else v for v in y]))
    if not lines:
        return None
    alone = runs[0] if len(runs) == 1 else None
    levels = [] if alone is None else _levels(quantity, alone)
    marks = (
        []
        if alone is None
        else [Mark(e.kind, x) for e in events(alone) if (x := _at(alone, e, across)) is not None]
    )
    svg = charts.svg(
        curve(lines, levels, marks, across, quantity.floor),
        quantity.title,
        _spoken(lines, levels, across),
    )
    return quantity.title, svg, quantity.caption


def _own(quantity: Quantity) -> str:
    return {"knn": "named rightly", "lr": "learning rate"}.get(quantity.key, quantity.title.lower())


def _levels(quantity: Quantity, seen: Seen) -> list[Level]:
    known = ((word, number(seen.last.get(key))) for key, word in quantity.levels)
    found = [Level(word, value) for word, value in known if value is not None]
    if (
        quantity.key == "knn"
        and (score := headline(seen)) is not None
        and "random_init" in score.baselines
    ):
        found.append(Level("before training, on test", score.baselines["random_init"]))
    return found


def _at(seen: Seen, event: Event, across: str) -> float | None:
    if across == "step":
        return float(event.step)
    epoch = number(seen.last.get("epoch"))
    return None if epoch is None else event.step * epoch / max(seen.last["step"], 1)


def _spoken(lines: Sequence[Line], levels: Sequence[Level], across: str) -> str:
    """The chart for those who cannot see it."""
    parts: list[str] = []
    for line in lines:
        known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        (first, begin), (last, end) = known[0], known[-1]
        values = [y for _, y in known]
        parts.append(
            f"{line.label}: {begin:.4g} at {across} {first:.3g}, {end:.4g} at {across} {last:.3g}; "
            f"lowest {min(values):.4g}, highest {max(values):.4g}"
        )
    return ". ".join([*parts, *(f"{level.label}: {level.y:.4g}" for level in levels)])
