"""The first sentence of a report page: what came out of a run, for someone who knows none of it."""

from dataclasses import dataclass
from typing import Any

from clctl.commands._report_read import Seen, at, number, pair, words
from clctl.evaluate.verdict import POINT
from clctl.report.document import percent
from clctl.report.page.render import Verdict

SCORES = ("knn-eval", "linear-probe", "finetune")
"""Which evaluation speaks for a run that has no score of its own; the first that there is."""
BASELINES = ("chance", "majority", "pixels", "random_init", "initial")
GEOMETRY = ("feature_spread", "rank_me", "feature_spread_random_init", "rank_me_random_init")
THIN = 2.0  # directions; below that features are next to nothing


@dataclass(frozen=True)
class Headline:
    """The score that speaks for a run, over `images` test pictures where that is known."""

    command: str
    value: float
    interval: tuple[float, float]
    images: int | None
    baselines: dict[str, float]


def headline(seen: Seen) -> Headline | None:
    """The kNN score at the end of the run, else that of an evaluation, else nothing."""
    own = _headline(seen.outcome, "knn-eval", seen.outcome.get("metrics"))
    ranked = sorted(seen.scores.items(), key=lambda item: _rank(item[1]))
    found = [h for _, d in ranked if (h := _headline(d, command(d), d.get("metrics")))]
    if own is None:
        return found[0] if found else None
    twins = [h for h in found if (h.command, h.value) == (own.command, own.value)]
    return twins[0] if twins else own


def verdict(seen: Seen) -> Verdict:
    """The outcome in a word and in a sentence."""
    status = seen.status
    if status.startswith("failed"):
        return _failed(seen, status.partition(": ")[2])
    if status.startswith("stopped") or status == "running":
        return _unfinished(seen, status)
    if (found := headline(seen)) is not None:
        return _scored(found)
    for reading in readings(seen).values():
        return _read(reading, _diagnosed(seen))
    return Verdict(
        "unsure",
        "Nothing to judge it by",
        "This folder holds no score and no reading of the features, so nobody can say what the run "
        "learned. clctl knn-eval gives a score where there are labels, clctl diagnose a reading "
        "where there are none.",
    )


def _scored(found: Headline) -> Verdict:
    (low, high), beside = found.interval, found.baselines
    guess = max(beside.get("chance", 0.0), beside.get("majority", 0.0))
    start = beside.get("initial", beside.get("random_init"))
    pixels = beside.get("pixels")
    if low <= guess:
        tone, word = "bad", "Not surely better than guessing"
    elif start is not None and high < start:
        tone, word = "bad", "Worse than before training"
    elif start is None:
        tone, word = "unsure", "Better than guessing"
    elif low <= start:
        tone, word = "unsure", "No sure sign of learning"
    elif pixels is not None and high < pixels:
        tone, word = "unsure", "It learned, but comparing raw pixels does better"
    elif pixels is not None and low <= pixels:
        tone, word = "unsure", "It learned, but is not surely better than comparing raw pixels"
    else:
        tone, word = "good", "It learned"
    count = "" if found.images is None else f"{found.images:,} "
    names = (
        ("chance", "guessing gets"),
        ("pixels", "comparing raw pixels"),
        ("random_init", "the same network before training"),
        ("initial", "the weights it started from"),
    )
    rivals = [f"{w} {percent(beside[n])}" for n, w in names if n in beside]
    sentence = (
        f"{percent(found.value)} of {count}test pictures get their right "
        f"name{_how(found.command)} (95 % interval: {percent(low)} to {percent(high)})"
    )
    return Verdict(tone, word, sentence + (f"; {', '.join(rivals)}." if rivals else "."))


def _how(command: str) -> str:
    return {
        "knn-eval": " from the training pictures most like them",
        "linear-probe": " by a linear classifier on the features",
        "finetune": " after training with labels",
    }.get(command, "")


def _read(reading: dict[str, float], diagnosed: str) -> Verdict:
    spread, rank = reading["feature_spread"], reading["rank_me"]
    beside = ""
    if "feature_spread_random_init" in reading and "rank_me_random_init" in reading:
        beside = (
            f" (before training {reading['feature_spread_random_init']:.2f} and "
            f"{reading['rank_me_random_init']:.1f})"
        )
    figures = (
        f"spread {spread:.2f}, where 0 is one point and 1 fills the space, along about {rank:.1f} "
        f"directions{beside}"
    )
    if spread < POINT or diagnosed == "collapsed":
        return Verdict("bad", "Collapsed", f"All pictures get nearly the same features: {figures}.")
    if rank < THIN or diagnosed.startswith("dimensional collapse"):
        return Verdict(
            "bad", "Partly collapsed", f"The features vary along few directions: {figures}."
        )
    return Verdict(
        "unsure",
        "Not collapsed; how good it is needs labels",
        f"Different pictures get different features: {figures}. Without labels nobody can say how "
        "well they tell things apart: look at the nearest neighbours, or score it on labelled "
        "pictures.",
    )


def _failed(seen: Seen, code: str) -> Verdict:
    where = _where(seen)
    if code == "train.collapsed":
        return Verdict(
            "bad",
            "Collapsed",
            f"Training was stopped{where}, for the network had begun to give nearly the same "
            "answer to every picture, which makes it useless. What was seen is below, with the curves.",
        )
    reason = "numbers that were not finite" if code == "train.not-finite" else f"an error ({code})"
    return Verdict("bad", "Failed", f"Training ended{where} with {reason}.")


def _unfinished(seen: Seen, status: str) -> Verdict:
    where = _where(seen)
    knn = next((n for r in seen.records[::-1] if (n := number(r.get("knn"))) is not None), None)
    so_far = "It has no score yet."
    if knn is not None:
        so_far += (
            f" So far {percent(knn)} of some training pictures get their right name from others, "
            "which is a sign of learning and no score."
        )
    if status == "running":
        return Verdict(
            "unsure",
            "Not finished",
            f"The run is still training or was cut off{where}. {so_far}",
        )
    return Verdict(
        "unsure", "Stopped before its end", f"The run was {status}{where}, and saved. {so_far}"
    )


def _where(seen: Seen) -> str:
    step, total = seen.last.get("step"), seen.total
    if step is None:
        return ""
    return f" at step {step:,}" + (f" of {total:,} ({percent(step / total)})" if total else "")


def _headline(document: dict[str, Any], command: str, metrics: Any) -> Headline | None:
    value, interval = number(at(metrics, "top1")), pair(document.get("top1_ci95"))
    if value is None or interval is None:
        return None
    images = at(document, "data", "test_images")
    known = {n: number(at(document, "baselines", n)) for n in BASELINES}
    baselines = {n: v for n, v in known.items() if v is not None}
    return Headline(command, value, interval, images if type(images) is int else None, baselines)


def command(document: dict[str, Any]) -> str:
    """The command that wrote a document, "" if it does not say."""
    return words(document.get("schema")).removeprefix("clctl/").partition("/")[0]


def _rank(document: dict[str, Any]) -> int:
    by = command(document)
    return SCORES.index(by) if by in SCORES else len(SCORES)


def readings(seen: Seen) -> dict[str, dict[str, float]]:
    """Spread and rank of the features, and before training where known, by who read them."""
    sources: list[tuple[str, Any, Any]] = [("end of training", seen.outcome.get("metrics"), None)]
    for document in seen.scores.values():
        if "verdict" in document:
            said = f"clctl diagnose: {words(document['verdict'])}"
            sources.append(
                (said, document.get("metrics"), at(document, "baselines", "random_init"))
            )
    scored = next((d["collapse"] for d in seen.scores.values() if "collapse" in d), None)
    found: dict[str, dict[str, float]] = {}
    for name, metrics, rival in (*sources, ("the pictures scored", scored, None)):
        values = {key: number(at(metrics, key)) for key in GEOMETRY}
        values |= {f"{k}_random_init": number(at(rival, k)) for k in GEOMETRY[:2] if rival}
        known = {key: value for key, value in values.items() if value is not None}
        if set(GEOMETRY[:2]) <= known.keys():
            found[name] = known
    return found


def _diagnosed(seen: Seen) -> str:
    """What clctl diagnose said of the newest weights, "" if nothing."""
    own = [
        words(d.get("verdict"))
        for d in seen.scores.values()
        if command(d) == "diagnose" and at(d, "checkpoint", "sha256") == seen.weights
    ]
    return own[0] if own else ""
