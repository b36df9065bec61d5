"""Every packaged digits recipe, and whether its resume is exact: the README's and the cards' figures.

    python tests/benchmarks/methods.py run OUT [METHOD...]
    python tests/benchmarks/methods.py table OUT

`run` runs each recipe, and a short form of it twice, once whole and once stopped by the clock over
and over, whose tensors must be the same bytes. It leaves one JSON document a recipe in OUT, goes
on where it stopped, and runs two at a time with one thread each. The same budget for all methods
on CIFAR-10 is `clctl sweep` over the recipes of `small/`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clctl.recipe.plugins import known


def clctl(*arguments: object, code: tuple[int, ...] = (0,)) -> tuple[int, dict[str, Any]]:
    """Run a command on one thread; gives its exit code and document."""
    command = [sys.executable, "-m", "clctl", *map(str, arguments), "--json", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in code:
        raise SystemExit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr[-2000:]}")
    return done.returncode, json.loads(done.stdout)


def last_line(run: Path) -> dict[str, Any]:
    """The newest record of a run's log."""
    return json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])


def tensors(run: Path) -> dict[str, bytes]:
    """The last checkpoint's tensor files."""
    newest = max((run / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def resumes(name: str, folder: Path) -> dict[str, Any]:
    """Whether a short run that is stopped over and over ends in the bytes of one that is not."""
    few = ("--set", "train.epochs=3", "--set", "checkpoint.every_steps=1000")
    clctl("pretrain", name, *few, "--out", folder / "whole")
    stops, code = 0, 75
    while code == 75:
        code, _ = clctl(
            *("pretrain", name, *few, "--out", folder / "stopped", "--max-time", "3s"),
            code=(0, 75),
        )
        stops += code == 75
    same = tensors(folder / "whole") == tensors(folder / "stopped")
    return {"stops": stops, "bit_exact": same and stops > 0}


def digits(name: str, out: Path) -> dict[str, Any]:
    """The packaged recipe of a method, and its resume."""
    run = out / "runs" / name
    begun = time.time()
    _, document = clctl("pretrain", name, "--out", run)
    seconds = time.time() - begun
    resume = resumes(name, out / "runs" / f"resume-{name}")
    return {**document, "seconds_whole": seconds, "last": last_line(run), "resume": resume}


def table(out: Path) -> None:
    """Print what lies in OUT."""
    for path in sorted(out.glob("*.json")):
        row = json.loads(path.read_text("utf-8"))
        low, high = row["top1_ci95"]
        base, resume = row["baselines"], row["resume"]
        kept = next((out / "runs" / path.stem / "evaluations").glob("knn-eval-*.json"))
        reading = json.loads(kept.read_text("utf-8"))["collapse"]
        cells = [
            *(path.stem, f"{row['steps']:,}", f"{row['seconds']:.0f}"),
            f"{row['metrics']['top1']:.3f} [{low:.3f}, {high:.3f}]",
            *(f"{base['random_init']:.3f}", f"{base['pixels']:.3f}"),
            *(f"{row['last']['spread']:.2f}", f"{reading['rank_me']:.0f}"),
            f"{resume['bit_exact']} after {resume['stops']} stops",
        ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="*", default=[])
    asked = parser.parse_args()
    if asked.what == "table":
        return table(asked.out)

    def work(name: str) -> None:
        target = asked.out / f"{name}.json"
        if target.exists():
            return
        try:
            row = digits(name, asked.out)
        except SystemExit as failure:  # the others go on; the same call tries this one again
            print(failure, file=sys.stderr)
            return
        target.write_text(json.dumps(row, indent=1), "utf-8")
        print(f"{name}: {row['metrics']['top1']:.3f}", flush=True)

    asked.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as two:
        list(two.map(work, asked.methods or list(known("clctl.methods"))))


if __name__ == "__main__":
    main()
