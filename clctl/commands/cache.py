"""clctl cache: which decoded pictures are kept on this machine, and their removal."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clctl.console import Exit, Problem, Talk
from clctl.data.entries import Entry, entries, in_words, limit, remove
from clctl.data.home import home
from clctl.report.document import Report
from clctl.store import disk


@dataclass(frozen=True)
class Order:
    """What was typed for `clear`: names or paths, none for all; and whether not to ask."""

    names: tuple[str, ...] = ()
    yes: bool = False


def ls() -> Report:
    """What is kept, the one used last first."""
    found = entries()
    most, total = limit(), sum(entry.bytes for entry in found)
    rows = [("name", "pictures", "size", "last used (UTC)", "path"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row[:4], widths, strict=True)), row[4]]
        )
        for row in rows
    ]
    last = f"{in_words(total)} of {in_words(most)} (CLCTL_CACHE_LIMIT) in {home()}"
    text = "\n".join([*lines, last]) if found else f"nothing is kept in {home()}"
    return Report(_document(found, ()), text, "\n".join(entry.name for entry in found))


def clear(order: Order, talk: Talk) -> Report:
    """Remove what is named, or all; never what a running process has open.

    Raises:
        Problem: If a name is unknown or in use, if nobody agreed, or if something may not be
            removed.
    """
    found = entries()
    wanted = _named(order.names, found)
    doomed = [entry for entry in wanted if not entry.in_use]
    if doomed and not order.yes and not _agreed(doomed, talk):
        return Report(_document(found, ()), "nothing was removed", "0")
    gone: list[Entry] = []
    for entry in doomed:
        with disk.writing(entry.path):
            if remove(entry.path):
                gone.append(entry)
    left = [entry for entry in wanted if entry not in gone]
    freed = in_words(sum(entry.bytes for entry in gone))
    lines = [f"removed {entry.name}: {entry.path}" for entry in gone]
    lines += [f"left alone, as it is in use: {entry.name}: {entry.path}" for entry in left]
    lines.append(f"{freed} freed; the pictures themselves are where they were")
    document = _document(entries(), gone)
    return Report(document, "\n".join(lines) if wanted else _empty(), str(len(gone)))


def _named(names: Sequence[str], found: Sequence[Entry]) -> list[Entry]:
    """The stores of these names, all where none is given."""
    if not names:
        return list(found)
    known = [(entry, {entry.name, str(entry.path), entry.path.name}) for entry in found]
    for name in names:
        meant = [entry for entry, called in known if name in called]
        if not meant:
            there = ", ".join(sorted({entry.name for entry in found})) or "nothing is kept"
            raise Problem(
                f"the cache holds no {name}; it holds: {there}",
                Exit.USAGE,
                "cache.unknown",
                "clctl cache ls",
            )
        busy = [entry for entry in meant if entry.in_use]
        if busy:
            raise Problem(
                f"{name} is in use by a running process: {busy[0].path}",
                Exit.EXISTS,
                "cache.in-use",
                "wait for it to end; nothing was removed",
            )
    return [entry for entry, called in known if called & set(names)]


def _agreed(doomed: Sequence[Entry], talk: Talk) -> bool:
    """Whether a person at the terminal says yes."""
    size = in_words(sum(entry.bytes for entry in doomed))
    what = f"{len(doomed)} {'store' if len(doomed) == 1 else 'stores'} of {size}"
    if talk.quiet or not sys.stdin.isatty():
        raise Problem(
            f"{what} would be removed, and there is nobody to ask",
            Exit.USAGE,
            "cache.not-agreed",
            "add --yes",
        )
    talk.say(
        "\n".join(f"  {entry.name}  {in_words(entry.bytes)}  {entry.path}" for entry in doomed)
    )
    talk.say(f"remove {what}? They are made again when they are needed. [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _row(entry: Entry) -> tuple[str, ...]:
    pictures = "?" if entry.pictures is None else f"{entry.pictures:,}"
    used = f"{entry.used:%Y-%m-%d %H:%M}" + (", in use" if entry.in_use else "")
    return entry.name, pictures, in_words(entry.bytes), used, str(entry.path)


def _document(found: Sequence[Entry], gone: Sequence[Entry]) -> dict[str, Any]:
    return {
        "schema": "clctl/cache/1",
        "home": str(home()),
        "limit_bytes": limit(),
        "bytes": sum(entry.bytes for entry in found),
        "entries": [_plain(entry) for entry in found],
        "removed": [_plain(entry) for entry in gone],
    }


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "origin": entry.origin,
        "pictures": entry.pictures,
        "bytes": entry.bytes,
        "last_used_utc": entry.used.isoformat(timespec="seconds"),
        "in_use": entry.in_use,
        "path": str(entry.path),
    }


def _empty() -> str:
    return f"nothing is kept in {home()}"
