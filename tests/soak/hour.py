"""A long run with a checkpoint every few seconds and a kill -9 every few minutes.

    python tests/soak/hour.py --minutes 60

Memory, open descriptors and disk are sampled all the while, and must stay level; the end must have
the bytes of a run that was never killed, which is trained at the same time.
"""

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from killing import METHODS, TINY, ended, launch, log_of, newest, state, tensors

from clctl.commands.pretrain import Order
from clctl.store.run import Run

MOST = 1.1  # of the memory after a while, at the end


def sample(pid: int, run: Path) -> tuple[float, int, int]:
    """Resident megabytes, open descriptors, and bytes in the folder."""
    with open(f"/proc/{pid}/status") as status:
        kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    size = 0
    for folder, _, names in os.walk(run):  # which passes over folders that vanish meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                size += os.path.getsize(os.path.join(folder, name))
    return kb / 1024, len(os.listdir(f"/proc/{pid}/fd")), size


def grown(values: list[float]) -> float:
    """The last quarter against the second one, as a ratio of medians."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])


def speed(place: Path) -> float:
    """Epochs in a second, of a short run."""
    order = Order("moco_v2", (*TINY, *METHODS["moco_v2"], "train.epochs=4"), out=place / "speed")
    begun, pid = time.monotonic(), launch(order, place / "stderr")
    assert ended(pid, 600) == 0
    return 4 / (time.monotonic() - begun)


def trial(epochs: int, every: float, kills: tuple[float, float], place: Path, seed: int) -> dict:
    """One run of so many epochs; what was seen."""
    clock, log = random.Random(seed), place / "stderr"
    changes = (
        *TINY,
        *METHODS["moco_v2"],
        f"train.epochs={epochs}",
        "checkpoint.every_steps=1000000",
    )
    changes += (
        f"checkpoint.every_minutes={every / 60}",
        "report.log_every=10",
        "report.knn_every=50",
    )
    orders = {name: Order("moco_v2", changes, out=place / name) for name in ("whole", "killed")}
    reference = launch(orders["whole"], place / "stderr.whole")
    watched: list[tuple[float, int, int]] = []  # of the run that lives all the while
    run, begun = place / "killed", time.monotonic()
    found = {"minutes": 0.0, "epochs": epochs, "kills": 0, "resumed": 0, "lost": 0, "wrong": []}
    series: list[list[tuple[float, int, int]]] = []
    expected, alive = 0, True
    while alive:
        pid, until = launch(orders["killed"], log), time.monotonic() + clock.uniform(*kills)
        seen: list[tuple[float, int, int]] = []
        while alive and time.monotonic() < until:
            code = ended(pid, 1.0)
            alive = code is None
            if alive:
                seen.append(sample(pid, run))
                with suppress(FileNotFoundError, StopIteration):  # where it ended before
                    watched.append(sample(reference, place / "whole"))
            elif code != 0:
                found["wrong"].append(f"exit {code}: {log.read_text()[-500:]}")
        series.append(seen)
        if alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            found["kills"] += 1
        known = state(run)
        if known.get("pid") == pid and known["resumed_from"] != expected:
            found["wrong"].append(f"from {known['resumed_from']}, not {expected}")
        found["resumed"] += known.get("pid") == pid and known["resumed_from"] > 0
        expected = newest(run)
        found["lost"] += (
            max([r["step"] for r in Run(run).after(expected)], default=expected) - expected
        )
    if ended(reference, 3600) != 0:
        found["wrong"].append("the run that was not killed failed")
    elif tensors(run) != tensors(place / "whole") or log_of(run) != log_of(place / "whole"):
        found["wrong"].append("other bytes, or another log, than the run that was not killed")
    found["minutes"] = round((time.monotonic() - begun) / 60, 1)
    return {**found, **level([*series, watched], found["wrong"])}


def level(series: list[list[tuple[float, int, int]]], wrong: list[str]) -> dict:
    """Largest memory, descriptors and disk; and how memory grew in the longest life."""
    everything = [one for seen in series for one in seen]
    longest = max(series, key=len)
    steady = longest[len(longest) // 8 :]  # after the imports and the first steps
    ratio = grown([one[0] for one in steady])
    quarter = max(1, len(steady) // 4)
    # The fewest, for more files are open while a checkpoint is written.
    before = min(one[1] for one in steady[quarter : 2 * quarter])
    after = min(one[1] for one in steady[-quarter:])
    if ratio > MOST:
        wrong.append(f"memory grew by {ratio:.2f}")
    if after > before:
        wrong.append(f"descriptors grew from {before} to {after}")
    return {
        "rss_mb": round(max(one[0] for one in everything)),
        "rss_ratio": round(ratio, 3),
        "descriptors": max(one[1] for one in everything),
        "disk_mb": round(max(one[2] for one in everything) / 1e6, 1),
    }


def main() -> None:
    """Run it, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--epochs", type=int, help="instead of minutes, on a machine with more to do"
    )
    parser.add_argument("--every", type=float, default=20, help="seconds between checkpoints")
    parser.add_argument("--kills", type=float, nargs=2, default=(60, 180), help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    order = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        epochs = order.epochs or max(8, round(60 * order.minutes * speed(folder)))
        found = trial(epochs, order.every, tuple(order.kills), folder, order.seed)
    print(json.dumps(found))
    print(
        f"| {found['minutes']} min, {found['kills']} kills, {found['resumed']} resumed "
        f"| {found['lost']} steps done again | {found['rss_mb']} MB, x{found['rss_ratio']}, "
        f"{found['descriptors']} descriptors, {found['disk_mb']} MB on disk "
        f"| wrong: {'; '.join(found['wrong']) or 'none'} |"
    )
    raise SystemExit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
