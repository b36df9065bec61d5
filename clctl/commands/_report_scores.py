"""The scores of runs on a report page: all evaluations with their intervals, the weakest classes."""

from collections.abc import Sequence

from clctl.commands._report_read import Seen, at, number, pair, words
from clctl.commands._report_verdict import Headline, command, headline, readings
from clctl.export._scores import Row, row, weights
from clctl.report import charts
from clctl.report.curves import Dot, dots
from clctl.report.document import percent
from clctl.report.page.render import Table, fragment, table
from clctl.report.section import Section

SLUG, TITLE = "scores", "How good it is"
LEAD = (
    "Every score is over the test pictures, beside what it must beat. The interval says "
    "where the true share lies with 95 % certainty; more test pictures make it narrower."
)
HEADS = ("how", "data", "pictures", "score", "95 % interval", "untrained", "raw pixels", "guessing")
FIGURES = frozenset(range(2, 8))
WEAKEST = 5
FORMS = "{:.2f}", "{:.1f}"  # of spread and rank
METRICS = {"top1": "top-1", "recall_at_1": "recall at 1"}
NAMES = {
    "knn-eval": "named after nearest neighbours (knn-eval)",
    "linear-probe": "linear classifier on frozen features (linear-probe)",
    "finetune": "all weights trained on with labels (finetune)",
    "retrieval": "nearest picture is of the same class (retrieval)",
}


def section(seen: Seen) -> Section:
    """The scores of one run."""
    found = headline(seen)
    rows = {name: made for name, d in seen.scores.items() if (made := row(d)) is not None}
    if found is None and not rows:
        why = (
            "nobody has scored it with labels yet; clctl knn-eval and clctl linear-probe do, where the "
            "data are labelled"
        )
        return Section(SLUG, TITLE, LEAD, _geometry(seen), why)
    body = "" if found is None else _chart(found)
    order = sorted(rows, key=lambda name: (list(NAMES).index(_command(rows[name])), name))
    cells = [_cells(seen, name, rows[name]) for name in order]
    if cells:
        body += table(Table("All scores", HEADS, cells, FIGURES))
    for make in (_labels, _weakest, _geometry):
        body += make(seen)
    return Section(SLUG, TITLE, LEAD, body)


def _chart(found: Headline) -> str:
    rivals = {
        "pixels": "raw pixels",
        "initial": "weights it started from",
        "random_init": "before training",
    }
    known = [Dot(word, found.baselines[n]) for n, word in rivals.items() if n in found.baselines]
    low, high = found.interval
    described = (
        f"This run {percent(found.value)}, 95 % interval {percent(low)} to {percent(high)}. "
        + "".join(f"{dot.label} {percent(dot.value)}. " for dot in known)
        + (f"Guessing {percent(found.baselines['chance'])}." if "chance" in found.baselines else "")
    )
    drawn = dots(
        [Dot("this run", found.value, found.interval), *known], found.baselines.get("chance")
    )
    svg = charts.svg(drawn, "Share of test pictures named rightly", described)
    caption = (
        "The bar around the dot is the 95 % interval. Raw pixels: the same without any network. Before "
        "training: the same network with random weights. Learning shows where the whole bar lies to the "
        "right of both."
    )
    title = "Test pictures named rightly" + (f", by {found.command}" if found.command else "")
    return fragment("figures.html", figures=[(title, svg, caption)])


def _command(found: Row) -> str:
    return found.protocol.partition(",")[0]


def _cells(seen: Seen, name: str, found: Row) -> list[str]:
    by, _, settings = found.protocol.partition(", ")
    settings = settings.removeprefix("clctl, ")
    how = NAMES.get(by, by) + (f", {settings}" if settings else "")
    document = seen.scores[name]
    if "curve" in document:
        how += ", with fewer labels below"
    if seen.weights is not None and weights(document) != seen.weights:
        step = at(document, "checkpoint", "step")
        how += (
            f"; of other weights, those of step {step}"
            if type(step) is int
            else "; of other weights"
        )
    low, high = found.interval
    beside = [number(found.beside.get(n)) for n in ("random_init", "pixels", "chance")]
    return [
        how, found.data, f"{found.images:,}", percent(found.value),
        f"{percent(low)} to {percent(high)}", *("" if v is None else percent(v) for v in beside),
    ]  # fmt: skip


def _labels(seen: Seen) -> str:
    """The curves over fewer labels."""
    rows: list[list[str]] = []
    for document in seen.scores.values():
        curve = document.get("curve")
        for point in curve if isinstance(curve, list) else ():
            share, images, top1 = (number(at(point, k)) for k in ("fraction", "images", "top1"))
            interval = pair(at(point, "ci95"))
            if share is None or images is None or top1 is None or interval is None:
                continue
            rival = number(at(point, "random_init", "top1"))
            rows.append(
                [
                    command(document),
                    f"{100 * share:g} %",
                    f"{images:,.0f}",
                    percent(top1),
                    f"{percent(interval[0])} to {percent(interval[1])}",
                    words(at(point, "interval_over")),
                    "" if rival is None else percent(rival),
                ]
            )
    heads = ("how", "share of labels", "labels", "score", "95 % interval", "over", "untrained")
    made = Table("With fewer labels", heads, rows, frozenset((1, 2, 3, 4, 6)))
    return table(made) if rows else ""


def _weakest(seen: Seen) -> str:
    """The classes that the headline's evaluation knows least."""
    spoken = headline(seen)
    if spoken is None:
        return ""
    of_it = [d for d in seen.scores.values() if at(d, "metrics", "top1") == spoken.value]
    document = next((d for d in of_it if command(d) == spoken.command), {})
    found = document.get("per_class")
    known = (
        [r for r in found if number(at(r, "recall")) is not None] if isinstance(found, list) else []
    )
    if len(known) < 2:
        return ""
    worst = sorted(known, key=lambda r: r["recall"])[:WEAKEST]
    rows = [
        [
            str(r.get("class")), str(r.get("images", "")), percent(r["recall"]),
            "" if (p := number(r.get("precision"))) is None else percent(p),
        ]
        for r in worst
    ]  # fmt: skip
    which = "classes" if len(rows) == len(known) else f"{len(rows)} of {len(known)} classes"
    caption = f"The {which}, weakest first, by {spoken.command}"
    heads = ("class", "pictures", "of its pictures, named rightly", "of those named so, right")
    return table(Table(caption, heads, rows, frozenset((1, 2, 3))))


def _geometry(seen: Seen) -> str:
    """What the evaluations say of the features, without labels."""
    rows: list[list[str]] = []
    for name, found in readings(seen).items():
        spread, rank = found["feature_spread"], found["rank_me"]
        before = found.get("feature_spread_random_init"), found.get("rank_me_random_init")
        shown = ["" if v is None else form.format(v) for v, form in zip(before, FORMS, strict=True)]
        rows.append([name, FORMS[0].format(spread), shown[0], FORMS[1].format(rank), shown[1]])
    heads = ("reading", "spread", "untrained", "RankMe", "untrained")
    made = Table("The features themselves, without labels", heads, rows, frozenset((1, 2, 3, 4)))
    return table(made) if rows else ""


def together(runs: Sequence[Seen]) -> Section:
    """The scores of several runs in one table and one chart."""
    rows: list[list[str]] = []
    drawn: list[Dot] = []
    for seen in runs:
        found, method = headline(seen), words(at(seen.recipe, "method", "name"))
        cells = [seen.name, method, seen.data, seen.status or "unknown"]
        if found is None:
            rows.append([*cells, "", "no score", "", "", "", ""])
            continue
        low, high = found.interval
        beside = [found.baselines.get(n) for n in ("random_init", "pixels", "chance")]
        rows.append(
            [
                *cells, "" if found.images is None else f"{found.images:,}", percent(found.value),
                f"{percent(low)} to {percent(high)}",
                *("" if v is None else percent(v) for v in beside),
            ]
        )  # fmt: skip
        drawn.append(Dot(seen.name, found.value, found.interval))
    heads = (
        "run",
        "method",
        "data",
        "state",
        "pictures",
        "score",
        "95 % interval",
        "untrained",
        "raw pixels",
        "guessing",
    )
    body = ""
    if drawn:
        described = ". ".join(f"{dot.label}: {percent(dot.value)}" for dot in drawn)
        svg = charts.svg(dots(drawn, None), "Share of test pictures named rightly", described)
        caption = "The bars are 95 % intervals, each by itself; differences of the same pictures are below."
        body = fragment("figures.html", figures=[("Test pictures named rightly", svg, caption)])
    body += table(Table("The score of each run", heads, rows, frozenset(range(4, 10))))
    return Section(SLUG, TITLE, LEAD, body, None if drawn else "none of these runs has a score")
