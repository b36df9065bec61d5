"""kill -9 at random moments: the same command again ends in the bytes of a run never killed.

    python tests/soak/kills.py --kills 50

prints one JSON line and one row of a table for each method.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from killing import METHODS, TINY, finished, killed, log_of, newest, state, tensors

from clctl.commands.pretrain import Order
from clctl.store.run import Run


def trial(method: str, kills: int, place: Path, clock: random.Random) -> dict:
    """Kill runs of one method, each to its end, until that many kills; what came of them."""
    begun, changes, log = time.monotonic(), (*TINY, *METHODS[method]), place / "stderr"
    whole, other = place / "whole", place / "other"
    _, seconds = finished(Order(method, changes, out=whole), log)
    finished(Order(method, (*changes, "seed=1"), out=other), log)
    found = {"method": method, "kills": 0, "runs": 0, "resumed": 0, "lost": 0, "wrong": []}
    while found["kills"] < kills:
        found["runs"] += 1
        run = place / f"run-{found['runs']}"
        _one(Order(method, changes, out=run), log, kills, seconds, clock, found)
        if tensors(run) != tensors(whole):
            found["wrong"].append(f"{run.name}: other bytes")
        if log_of(run) != log_of(whole):
            found["wrong"].append(f"{run.name}: another log")
    if tensors(other) == tensors(whole):
        found["wrong"].append("another seed gives the same bytes")
    if "Traceback" in (said := log.read_text()):
        found["wrong"].append(said[-500:])
    return {**found, "seconds": round(time.monotonic() - begun, 1)}


def _one(
    order: Order, log: Path, kills: int, seconds: float, clock: random.Random, found: dict
) -> None:
    """One run, killed again and again, and at last left to finish."""
    assert order.out is not None
    first, expected, alive = True, 0, True
    while alive and found["kills"] < kills:
        # The first kill is after a checkpoint, the others at any moment.
        after = clock.uniform(0, seconds / 4 if first else seconds)
        pid, alive = killed(order, log, after, first)
        _resumed(order.out, pid, expected, found)
        if alive:
            found["kills"] += 1
            first, expected = False, newest(order.out)
            steps = [r["step"] for r in Run(order.out).after(expected)]
            found["lost"] += max(steps, default=expected) - expected
    if alive:
        pid, _ = finished(order, log)
        _resumed(order.out, pid, expected, found)


def _resumed(run: Path, pid: int, expected: int, found: dict) -> None:
    """See that a launch, if it came so far, went on from the newest whole checkpoint."""
    known = state(run)
    if known.get("pid") == pid and "resumed_from" in known:
        found["resumed"] += known["resumed_from"] > 0
        if known["resumed_from"] != expected:
            found["wrong"].append(f"{run.name}: from {known['resumed_from']}, not {expected}")


def main() -> None:
    """Try each method, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--method", choices=[*METHODS], action="append")
    parser.add_argument("--seed", type=int, default=0)
    order = parser.parse_args()
    for method in order.method or METHODS:
        with tempfile.TemporaryDirectory() as place:
            found = trial(method, order.kills, Path(place), random.Random(order.seed))
        print(json.dumps(found), flush=True)
        bad = "; ".join(found["wrong"]) or "none"
        print(
            f"| {method} | {found['kills']} kills, {found['resumed']} resumed "
            f"| {found['lost']} steps done again | wrong: {bad} |",
            flush=True,
        )
        if found["wrong"]:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
