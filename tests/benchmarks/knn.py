"""Nearest neighbours beside the bare matrix product that they need, and beside scikit-learn.

    python tests/benchmarks/knn.py [ROUNDS] [THREADS]
    python tests/benchmarks/knn.py memory [QUERIES]

Seconds for 10,000 queries against 50,000 x 512, medians over interleaved rounds: of the product of
the same parts alone, of `nearest` at two k, and of scikit-learn's brute force; of the processor
with one thread, so that other work on the machine matters less, else of the clock. `memory` prints
the largest resident memory of a process that asks 1,000,000 x 512, its 2 GB included.
"""

import resource
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from clctl.evaluate.knn import QUERIES, nearest
from clctl.rng import generator

KS = (20, 200)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: see above."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    work()
    return clock() - begun


def features(rows: int, width: int = 512) -> torch.Tensor:
    """Random features, float32 [rows, width], made in place."""
    return torch.empty(rows, width).normal_(generator=generator(rows, "features"))


def product(bank: torch.Tensor, queries: torch.Tensor) -> None:
    """All similarities, in the parts of `nearest`, none kept."""
    out = torch.empty(QUERIES, len(bank))
    for part in queries.split(QUERIES):
        torch.mm(part, bank.T, out=out[: len(part)])


def times(rounds: int) -> None:
    """Measure and print one line per k."""
    bank, queries = features(50_000), features(10_000)
    taken: dict[str, list[float]] = {}
    work: dict[str, Callable[[], object]] = {"product": lambda: product(bank, queries)}
    for k in KS:
        brute = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine")
        brute.fit(bank.numpy())
        work[f"nearest {k}"] = lambda k=k: nearest(bank, queries, k)
        work[f"scikit-learn {k}"] = lambda brute=brute: brute.kneighbors(queries.numpy())
    product(bank, queries[:1024])  # pages and threads are there
    for _ in range(rounds):
        for name, call in work.items():
            taken.setdefault(name, []).append(seconds(call))
    for k in KS:
        bare, ours, theirs = (
            median(taken[name]) for name in ("product", f"nearest {k}", f"scikit-learn {k}")
        )
        ratio = median(
            own / alone for own, alone in zip(taken[f"nearest {k}"], taken["product"], strict=True)
        )
        print(
            f"k {k}, {torch.get_num_threads()} threads: product {bare:.2f} s, nearest {ours:.2f} s, "
            f"median ratio {ratio:.2f}, scikit-learn {theirs:.2f} s",
            flush=True,
        )


def memory(queries: int) -> None:
    """Print peaks in GB (10^9 bytes); the number of queries hardly matters to them."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    start = peak()
    bank = features(1_000_000)
    made = peak()
    took = seconds(lambda: nearest(bank, features(queries), 200))
    print(
        f"1,000,000 x 512, {queries:,} queries, k 200: peak {peak():.2f} GB "
        f"(imports {start:.2f}, with the bank {made:.2f}), {took:.0f} s"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
    else:
        threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
        torch.set_num_threads(threads)
        with threadpool_limits(threads):  # scikit-learn's
            times(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
