"""The model card of an export: what it is, how good, how to load it. No time, host or path."""

import re
from typing import Any

from clctl.console import clean
from clctl.export._scores import Row
from clctl.export._subject import Subject

_FILES = {
    "config.json": "the architecture, and under `clctl` the whole recipe",
    "preprocessing.json": "what a picture goes through before the encoder, in full",
    "SHA256SUMS": "of all files: `sha256sum -c SHA256SUMS`",
}


def card(subject: Subject, target: str, weights: str, paste: str) -> str:
    """The text of README.md.

    Args:
        target: What it was written for.
        weights: Name of the file of weights.
        paste: Lines of Python that load it, to be run in the folder.
    """
    files = {weights: f"the weights, as {target} reads them", **_FILES}
    parts = [
        f"# {_plain(subject.name)}",
        _what(subject),
        _table(("", ""), list(_facts(subject).items())),
        "## Scores",
        _scores(subject.scores),
        "## Use",
        "In this folder, features of a picture:",
        f"```python\n{paste.rstrip()}\n```",
        "## Files",
        _table(("file", "holds"), [(f"`{name}`", words) for name, words in files.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _what(subject: Subject) -> str:
    about, width = subject.about, subject.encoder.width
    encoder = f"{_plain(subject.architecture)}, which gives {width} features of a picture"
    if not about.get("step"):
        return f"Untrained weights of an image encoder, {encoder}: to test a pipeline with."
    method = _plain(str(about.get("recipe", {}).get("method", {}).get("name")))
    return f"An image encoder, {encoder}, pretrained with {method} by clctl."


def _facts(subject: Subject) -> dict[str, str]:
    """What there is to know of the training and the encoder, as far as it is known."""
    about = subject.about
    recipe, data = about.get("recipe", {}), about.get("data", {})
    numbers = sum(p.numel() for p in subject.encoder.parameters())
    settings = ", ".join(f"{key} {_plain(str(value))}" for key, value in subject.facts.items())
    known = {
        "encoder": f"{_plain(subject.architecture)} ({settings}), {numbers:,} parameters",
        "input": f"{subject.size} x {subject.size} pixels, RGB",
        "data": _plain(str(data.get("name", ""))),
        "fingerprint": str(data.get("fingerprint") or ""),
        "method": _method(recipe.get("method", {})) if about.get("step") else "",
        "training": _training(recipe, about["step"]) if about.get("step") else "",
        "started from": _start(recipe, about.get("init_from")),
        "seed": str(recipe.get("seed", "")),
        "made with": ", ".join(f"{k} {_plain(v)}" for k, v in subject.versions.items()),
    }
    return {key: text for key, text in known.items() if text}


def _start(recipe: dict[str, Any], digest: str | None) -> str:
    """Which weights training began with, where they were not random."""
    if digest is None:
        return ""
    name = recipe.get("encoder", {}).get("weights")
    return f"{_plain(name)}, sha256 {digest}" if name else f"weights with sha256 {digest}"


def _method(settings: dict[str, Any]) -> str:
    words = [f"{key} {value}" for key, value in settings.items() if key != "name"]
    return _plain(f"{settings.get('name')} ({', '.join(words)})")


def _training(recipe: dict[str, Any], step: int) -> str:
    train, optimizer = recipe.get("train", {}), recipe.get("optimizer", {})
    words = [
        f"{step:,} steps of {train.get('epochs')} epochs, batch {train.get('batch_size')}",
        f"{optimizer.get('name')} with lr {optimizer.get('lr')} per 256 pictures",
    ]
    return _plain(", ".join(words))


def _scores(rows: tuple[Row, ...]) -> str:
    if not rows:
        return (
            "None is recorded for these weights. `clctl knn-eval` and `clctl linear-probe` give "
            "one; export again and it stands here."
        )
    head = ("protocol", "data", "images", "metric", "score (95 %)")
    names = ("random-init", "raw pixels", "chance")
    lines = [(*_cells(row), *_rivals(row)) for row in rows]
    words = (
        "In brackets is where the score may lie, at 95 %, for other test pictures. random-init is "
        "the same encoder untrained, raw pixels are the pictures themselves: weights that are not "
        "above both have learned nothing that these data can show."
    )
    return f"{_table((*head, *names), lines)}\n\n{words}"


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.interval
    score = f"{_percent(row.value)} ({_percent(low)} to {_percent(high)})"
    return _plain(row.protocol), _plain(row.data), f"{row.images:,}", _plain(row.metric), score


def _rivals(row: Row) -> list[str]:
    values = [row.beside.get(name) for name in ("random_init", "pixels", "chance")]
    return ["-" if value is None else _percent(value) for value in values]


def _percent(share: float) -> str:
    """0.9714 as "97.1 %"."""
    return f"{100 * share:.1f} %"


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a folder's name may hold anything."""
    text = clean(text).replace("\n", " ").encode("utf-8", "replace").decode()
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
