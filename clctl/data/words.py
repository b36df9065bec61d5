"""Many names or numbers in few words."""

from collections.abc import Collection, Sequence


def few(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def span(counts: Collection[int]) -> str:
    """The smallest and the largest count: "3 to 512", or "20" where all are alike."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
