"""Many names or numbers in few words."""

from collections.abc import Collection, Sequence


def few(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def shown(name: str) -> str:
    """A name on one line, whatever it holds: a line break must not pass for a line of ours."""
    return name if name.isprintable() else repr(name)


def span(counts: Collection[int]) -> str:
    """How many pictures each has: "3 to 512 pictures", "20 pictures" where all are alike."""
    low, high = min(counts), max(counts)
    numbers = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{numbers} picture{'s' * (high != 1)}"
