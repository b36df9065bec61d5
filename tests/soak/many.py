"""Ten runs at once in one parent folder, on the same pictures and one empty cache.

python tests/soak/many.py --runs 10
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from killing import ended, launch, state
from PIL import Image

from clctl.commands.pretrain import Order
from clctl.store import checkpoint

TINY = ("encoder.width=8", "train.epochs=2", "train.batch_size=32", "views.size=16")
TINY += ("guard.action=warn",)


def pictures(folder: Path, count: int) -> None:
    """Two classes of noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("odd" if i % 2 else "even") / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)


def trial(runs: int, count: int, place: Path) -> dict:
    """What came of them."""
    pictures(place / "photos", count)
    os.environ["CLCTL_CACHE"] = str(place / "cache")
    begun = time.monotonic()
    orders = [
        Order("folder", (*TINY, f"seed={i}"), str(place / "photos"), out=place / "runs" / f"{i}")
        for i in range(runs)
    ]
    pids = [launch(order, place / f"stderr-{i}") for i, order in enumerate(orders)]
    codes = [ended(pid, 1800) for pid in pids]
    said = [(place / f"stderr-{i}").read_text() for i in range(runs)]
    built = sum("decoding" in text and "once, into" in text for text in said)
    wrong = [f"run {i}: exit {code}: {said[i][-300:]}" for i, code in enumerate(codes) if code]
    wrong += [
        f"run {i}: {state(order.out)['status']}"
        for i, order in enumerate(orders)
        if order.out and state(order.out).get("status") != "done"
    ]
    wrong += [
        f"run {i} has no whole checkpoint"
        for i, order in enumerate(orders)
        if order.out and checkpoint.newest(order.out, print) is None
    ]
    if built != 1:
        wrong.append(f"the cache was built {built} times")
    left = [path.name for path in (place / "cache" / "images").iterdir()]
    if len(left) != 1:
        wrong.append(f"the cache holds {left}")
    seconds = round(time.monotonic() - begun, 1)
    return {"runs": runs, "pictures": count, "built": built, "seconds": seconds, "wrong": wrong}


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=600)
    order = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = trial(order.runs, order.pictures, Path(place))
    print(json.dumps(found))
    print(
        f"| {found['runs']} runs at once | cache built {found['built']} time(s) "
        f"| {found['seconds']} s | wrong: {'; '.join(found['wrong']) or 'none'} |"
    )
    raise SystemExit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
