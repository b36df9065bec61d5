"""All of one run in one place."""

from pathlib import Path
from shlex import quote
from typing import Any

from clctl.commands._report_read import Seen, at, words
from clctl.commands._runs_read import Row, evaluation, size, top1
from clctl.console import Problem
from clctl.data.entries import in_words
from clctl.report.document import percent
from clctl.store import checkpoint

SHOWN = 12  # differences of the recipe in the text; the JSON has all


def document(row: Row, seen: Seen) -> dict[str, Any]:
    """What there is beyond the row: recipe, checkpoints, evaluations, disk, commands."""
    name, changed, missing = differences(seen)
    path = quote(str(row.path))
    return {
        "recipe": {"packaged": name, "differences": changed, "missing": missing},
        "checkpoints": checkpoints(row.path),
        "evaluations": evaluations(row.path),
        "disk": disk(row.path),
        "damaged": seen.lost,
        "continue": f"clctl pretrain {path}",
        "page": f"clctl report {path} -o {quote(f'{row.path.absolute().name}.html')}",
    }


def text(row: Row, more: dict[str, Any]) -> str:
    """The same for people."""
    of = f"{row.step or 0:,} of {row.total:,} steps" if row.total else f"{row.step or 0:,} steps"
    state = row.said if row.state == "stopped" else f"{row.said}, {of}"
    what = ", ".join(w for w in (row.method, row.encoder, row.data) if w)
    seed = "" if row.seed is None else f", seed {row.seed}"
    found = [f"{row.path}: {state}", f"  what         {what}{seed}"]
    found.append(f"  begun        {row.when:%Y-%m-%d %H:%M} UTC")
    recipe = more["recipe"]
    if recipe["missing"]:
        found.append(f"  recipe       {recipe['missing']}")
    else:
        found.append(f"  recipe       {recipe['packaged']}, but for {_count(recipe)}")
        found += [f"    {line}" for line in recipe["differences"][:SHOWN]]
    kept = more["checkpoints"]
    found.append(f"  checkpoints  {len(kept) or 'none'}")
    found += [f"    {c['name']}  {in_words(c['bytes'])}" for c in kept]
    found.append(f"  evaluations  {len(more['evaluations']) or 'none'}")
    found += [f"    {e['name']}{_score(e)}" for e in more["evaluations"]]
    parts = ", ".join(f"{name} {in_words(n)}" for name, n in more["disk"].items())
    found.append(f"  disk         {in_words(row.bytes)}: {parts}")
    if row.state not in ("done", "running"):
        found.append(f"  continue     {more['continue']}")
    found.append(f"  page         {more['page']}")
    return "\n".join(found)


def differences(seen: Seen) -> tuple[str, list[str], str | None]:
    """The packaged recipe's name, what differs from it, and why that cannot be told."""
    from clctl.recipe import identity
    from clctl.recipe.read import packaged, read
    from clctl.recipe.saved import from_resolved

    if not seen.recipe:
        return "", [], seen.lost.get("recipe.resolved.json", "recipe.resolved.json is missing")
    command, known = seen.state.get("command"), packaged()
    typed = command[1:2] if isinstance(command, list) else []
    method = words(at(seen.recipe, "method", "name"))
    name = next((n for n in (*typed, method) if isinstance(n, str) and n in known), None)
    if name is None:
        return "", [], f"no recipe comes with clctl for {method or 'a method without a name'}"
    try:
        rival = identity.resolved(read(known[name], (), words(seen.state.get("data")) or None))
        own = identity.resolved(from_resolved(seen.recipe, "the recipe"))
    except Problem as problem:
        return "", [], problem.message
    changed = identity.differences(rival, own)
    return name, [line for line in changed if not line.startswith("name: ")], None


def checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Name, step and bytes of each, the newest first."""
    home, found = folder / checkpoint.CHECKPOINTS, list[dict[str, Any]]()
    for step in checkpoint.steps(folder):
        name = f"step-{step:08d}"
        found.append({"name": name, "step": step, "bytes": size(home / name)})
    return found


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """Name, top-1 and interval of each."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "evaluations").glob("*.json")):
        read = evaluation(path)
        found.append({"name": path.stem, "top1": top1(read), "top1_ci95": read.get("top1_ci95")})
    return found


def disk(folder: Path) -> dict[str, int]:
    """Bytes of each folder in the run, the largest first, and of the files beside them."""
    inside = {p.name: size(p) for p in folder.iterdir() if p.is_dir() and not p.is_symlink()}
    found = dict(sorted(inside.items(), key=lambda item: -item[1]))
    return {**found, "files": size(folder) - sum(found.values())}


def _count(recipe: dict[str, Any]) -> str:
    many = len(recipe["differences"])
    more = f", of which the first {SHOWN}" if many > SHOWN else ""
    return f"{many or 'no'} value{'' if many == 1 else 's'}{more}"


def _score(scored: dict[str, Any]) -> str:
    return "" if scored["top1"] is None else f"  top-1 {percent(scored['top1'])}"
