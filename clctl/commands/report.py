"""clctl report: what came out of a run, or of several, as one page that needs nothing else."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clctl.commands import _report_log, _report_origin, _report_pairs, _report_scores
from clctl.commands._report_pictures import sections as pictures
from clctl.commands._report_read import Seen, at, read, words
from clctl.commands._report_verdict import verdict
from clctl.commands._sweep_folder import runs as expanded
from clctl.console import Exit, Problem, Talk
from clctl.report.document import Report, duration
from clctl.report.page.render import Verdict, page
from clctl.report.section import Section
from clctl.store import files
from clctl.store.run import Run


@dataclass(frozen=True)
class Order:
    """What was typed."""

    runs: tuple[str, ...]
    out: Path
    data: str | None = None
    device: str = "auto"
    split: str | None = None


def report(order: Order, talk: Talk) -> Report:
    """Write the page.

    Raises:
        Problem: If none of the folders is a run, or the page cannot be written.
    """
    begun = time.perf_counter()
    if order.out.suffix.lower() not in (".html", ".htm"):
        raise Problem(
            f"{order.out} does not end in .html",
            Exit.USAGE,
            "usage.suffix",
            f"-o {order.out.with_suffix('.html')}",
        )
    runs, notes = _read(expanded(order.runs))
    talk.say(f"report of {', '.join(seen.name for seen in runs)}")
    if len(runs) == 1:
        found, sections = _one(runs[0], order, talk)
        title, subtitle = runs[0].name, _about(runs[0])
    else:
        found, sections = _several(runs, talk)
        title, subtitle = f"{len(runs)} runs", ", ".join(seen.name for seen in runs)
    made = page(title, subtitle, found, notes, sections)
    files.make(order.out.absolute().parent)
    files.write(order.out, made)
    seconds = time.perf_counter() - begun
    document = {
        "schema": "clctl/report/1",
        "path": str(order.out),
        "bytes": len(made),
        "seconds": seconds,
        "runs": [str(seen.folder) for seen in runs],
        "verdict": {"word": found.word, "sentence": found.sentence},
        "sections": [{"slug": s.slug, "title": s.title, "missing": s.missing} for s in sections],
    }
    lines = [
        f"{found.word}: {found.sentence}",
        *(f"  empty     {s.title}: {s.missing}" for s in sections if s.missing is not None),
        f"  page      {order.out}, {len(made) / 1e6:.2f} MB, {duration(seconds)}",
    ]
    return Report(document, "\n".join(lines), str(order.out))


def _read(folders: Sequence[str]) -> tuple[list[Seen], list[str]]:
    """The runs, names of their own for each, and what could not be read.

    Raises:
        Problem: The first, if none is a run.
    """
    runs: list[Seen] = []
    refused: list[Problem] = []
    for folder in folders:
        try:
            runs.append(read(Path(folder)))
        except Problem as problem:
            refused.append(problem)
    if not runs:
        raise refused[0]
    names = [seen.name for seen in runs]
    runs = [
        seen if names.count(seen.name) == 1 else replace(seen, name=f"{seen.name} #{i + 1}")
        for i, seen in enumerate(runs)
    ]
    expected = {"report.json"}  # of a run that has not ended
    lost = [
        (f"{seen.name}: " if len(runs) > 1 else "") + why
        for seen in runs
        for name, why in seen.lost.items()
        if seen.status == "done" or name not in expected
    ]
    return runs, [*(problem.message for problem in refused), *lost]


def _about(seen: Seen) -> str:
    method, encoder = (words(at(seen.recipe, key, "name")) for key in ("method", "encoder"))
    epochs = at(seen.recipe, "train", "epochs")
    parts = [
        encoder and f"Encoder {encoder}",
        method and f"trained by {method}",
        seen.data and f"on {seen.data}",
        f"for {epochs} epochs" if type(epochs) is int else "",
    ]
    return " ".join(part for part in parts if part)


def _one(seen: Seen, order: Order, talk: Talk) -> tuple[Verdict, list[Section]]:
    made: list[Section] = [
        _guarded("scores", "How good it is", lambda: _report_scores.section(seen)),
        _guarded("curves", "How training went", lambda: _report_log.section([seen])),
        *pictures(Run(seen.folder), str(seen.folder), order, talk),
        _guarded("recipe", "What was set differently", lambda: _report_origin.recipe(seen)),
        _guarded("origin", "Where it comes from", lambda: _report_origin.provenance(seen)),
        _report_origin.glossary(),
    ]
    return verdict(seen), made


def _several(runs: Sequence[Seen], talk: Talk) -> tuple[Verdict, list[Section]]:
    document, pairs = _report_pairs.compared(runs, talk)
    made = [
        _guarded("scores", "How good they are", lambda: _report_scores.together(runs)),
        pairs,
        _guarded("curves", "How training went", lambda: _report_log.section(runs)),
        _guarded("recipe", "What was set differently", lambda: _report_origin.recipes(runs)),
        _guarded("origin", "Where they come from", lambda: _report_origin.origins(runs)),
        _report_origin.glossary(),
    ]
    return _report_pairs.verdict(runs, document), made


def _guarded(slug: str, title: str, make: Callable[[], Section]) -> Section:
    """The section; where the files hold other things than clctl writes, an empty one."""
    try:
        return make()
    except Problem as problem:
        return Section(slug, title, "", "", problem.message)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"the run's files hold something that clctl does not write ({type(error).__name__}: {error})"
        return Section(slug, title, "", "", why)
