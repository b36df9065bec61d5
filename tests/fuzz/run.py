"""The long form of the fuzzing: `PYTHONPATH=.:tests python tests/fuzz/run.py --minutes 10 [TARGET...]`.

Every input follows from its number, so a find is told by target and number and made again with
`--again TARGET NUMBER`. Stops at the first find, at an input that takes over 20 s, and where the
process grows by over 300 MB once the first 500 inputs have warmed it up.
"""

import argparse
import faulthandler
import resource
import tempfile
import time
from pathlib import Path

from fuzz.mutate import damaged
from fuzz.targets import TARGETS, seeds

SECONDS, MEGABYTES, WARM = 20, 300, 500


def main() -> None:
    """Spread the minutes over the targets."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("targets", nargs="*", default=list(TARGETS))
    words.add_argument("--minutes", type=float, default=10)
    words.add_argument("--start", type=int, default=0)
    words.add_argument("--again", nargs=2, metavar=("TARGET", "NUMBER"))
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if given.again:
            target, number = given.again[0], int(given.again[1])
            folder = Path(place)
            TARGETS[target](damaged(seeds(target, folder), number), folder)
            return
        for name in given.targets:
            folder = Path(place) / name
            folder.mkdir()
            hunt(name, folder, given.start, 60 * given.minutes / len(given.targets))


def hunt(name: str, folder: Path, start: int, seconds: float) -> None:
    """Inputs of one target, one after the other, for so many seconds."""
    whole = seeds(name, folder)
    for data in whole:
        TARGETS[name](data, folder)
    end, number, warm = time.monotonic() + seconds, start, 0.0
    while time.monotonic() < end:
        print(f"\r{name} {number}", end="", flush=True) if number % 200 == 0 else None
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            TARGETS[name](damaged(whole, number), folder)
        except BaseException:
            print(f"\nfound: --again {name} {number}")
            raise
        faulthandler.cancel_dump_traceback_later()
        number += 1
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        warm = held if number == start + WARM else warm
        if warm and held > warm + MEGABYTES:
            raise SystemExit(f"\n{name} {number}: grew from {warm:.0f} to {held:.0f} MB")
    print(f"\r{name}: {number - start:,} inputs in {seconds:.0f} s, at most {held:.0f} MB")


if __name__ == "__main__":
    main()
