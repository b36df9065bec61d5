"""Every method under one engine and one evaluation, as tables; the README's and the cards' figures.

    python tests/benchmarks/methods.py digits OUT [METHOD...]
    python tests/benchmarks/methods.py cifar10 OUT [METHOD...] --data PATH/cifar10 --minutes 4
    python tests/benchmarks/methods.py table OUT

`digits` runs each packaged recipe, and a short form of it twice, once whole and once stopped by
the clock over and over, whose tensors must be the same bytes. `cifar10` gives each method the same
minutes of one core on the first 10,000 images of CIFAR-10 with `resnet_small`, to be scored on the
first 4,000 of its test part; a rehearsal of all, kept in OUT/epochs.json, turns the minutes into
epochs before the first run, so a busier machine later on changes no result. Both leave one JSON
document a run in OUT, go on where they stopped, and run two at a time with one thread each.
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

import numpy as np

from clctl.commands._pictures import Pictures
from clctl.commands._setup import machine
from clctl.commands._trained import open_checkpoint
from clctl.commands.linear_probe import judge
from clctl.console import Talk
from clctl.data.open import load, trial
from clctl.evaluate.score import score
from clctl.recipe.plugins import known

FIRST = {"train": 10_000, "test": 4_000}  # images of CIFAR-10
SEEDS = {"simclr": (0, 1, 2), "byol": (0, 1, 2)}  # of `cifar10`, to know the noise; else one
VIEWS = "crop: {scale: [0.2, 1.0]}, hflip: 0.5, grayscale: 0.2"
JITTER = "jitter: {p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}"
TWO = f"views.groups=[{{count: 2, {VIEWS}, {JITTER}}}]"
LOCAL = f"count: 2, size: 16, {VIEWS.replace('0.2, 1.0', '0.1, 0.5')}, {JITTER}"
CROPS = f"views.groups=[{{count: 2, {VIEWS}, {JITTER}}}, {{{LOCAL}}}]"
ADAMW = "optimizer={name: adamw, lr: 6e-3, weight_decay: 1e-2}"
TEACHER = ("method.momentum=0.95",)
# At 0.95 the teacher outruns its queue of 78 batches: rank 3 to 4, and the guard stops MoCo v1.
SLOW = ("method.momentum=0.99", "method.momentum_final=0.99")
HEAD = "method.projector=[512, 128]"
SMALL: dict[str, tuple[str, ...]] = {  # over recipes/cifar10, for a small encoder and few minutes
    "barlow_twins": ("method.projector=[512, 512, 512]",),
    "byol": (HEAD, "method.predictor=512", *TEACHER),
    "cpc": (
        *("encoder.norm=group", "method.patch=8", "method.stride=8", "method.steps=2"),
        f"views.groups=[{{{VIEWS}}}]",
    ),
    "debiased": (HEAD,),
    "dino": (HEAD, "method.prototypes=512", "method.freeze_epochs=0", *TEACHER, CROPS),
    "hard_negative": (HEAD,),
    "moco_v1": (*SLOW, "method.temperature=0.2"),
    "moco_v2": (HEAD, *SLOW, "method.symmetric=false", "method.queue=auto"),
    "moco_v3": (HEAD, "method.predictor=512", *TEACHER),
    "nnclr": (HEAD, "method.predictor=512"),
    "simclr": (HEAD,),
    "simsiam": ("method.projector=[512, 512]", "method.predictor=128"),
    "supcon": (HEAD,),
    "swav": (HEAD, "method.prototypes=300", "method.freeze_epochs=0", "method.queue=null"),
    "triplet": (HEAD,),
    "vicreg": ("method.projector=[512, 512, 512]",),
}


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


def digits(name: str, seed: int, out: Path) -> dict[str, Any]:
    """The packaged recipe of a method, and its resume."""
    run = out / "runs" / f"digits-{name}-{seed}"
    begun = time.time()
    _, document = clctl("pretrain", name, "--set", f"seed={seed}", "--out", run)
    seconds = time.time() - begun
    row = {**document, "seconds_whole": seconds, "last": last_line(run)}
    if seed == 0:
        row["resume"] = resumes(name, out / "runs" / f"resume-{name}")
    return row


def settings(name: str, epochs: int, seed: int) -> list[str]:
    """The overrides of a run on the small CIFAR-10."""
    common = ("encoder={name: resnet_small}", "views.size=32", TWO, ADAMW, "schedule.warmup=0.1")
    run = ("train.batch_size=64", f"train.epochs={epochs}", f"seed={seed}")
    beside = ("checkpoint.every_minutes=60", "report.knn_every=1000")
    return [*common, *SMALL[name], *run, *beside]


def small(name: str, data: Path, epochs: int, seed: int, *more: object) -> dict[str, Any]:
    """`clctl pretrain` of a method on the small CIFAR-10."""
    flags = [flag for value in settings(name, epochs, seed) for flag in ("--set", value)]
    return clctl("pretrain", f"cifar10/{name}", "--data", data, *flags, *more)[1]


def rehearsed(names: list[str], out: Path, data: Path, minutes: float) -> dict[str, int]:
    """The epochs of each method that fill the minutes of one core, rehearsed two at a time."""
    target = out / "epochs.json"
    kept = json.loads(target.read_text("utf-8")) if target.exists() else {}

    def epochs(name: str) -> int:
        return max(1, round(60 * minutes / small(name, data, 1, 0, "--dry-run")["seconds"]))

    missing = [name for name in names if name not in kept]
    with ThreadPoolExecutor(2) as two:
        kept |= dict(zip(missing, two.map(epochs, missing), strict=True))
    target.write_text(json.dumps(kept, indent=1), "utf-8")
    return kept


def cifar10(name: str, seed: int, out: Path, data: Path, epochs: int) -> dict[str, Any]:
    """The epochs of a method, scored by its neighbours and by a linear probe."""
    run = out / "runs" / f"cifar10-{name}-{seed}"
    document = small(name, data, epochs, seed, "--out", run)
    linear = probed(run, "trained")
    return {**document, "epochs": epochs, "last": last_line(run), "linear": linear}


def probed(run: Path, material: str) -> dict[str, Any]:
    """Linear probe of one material of a run in a process of one thread: see `probe`."""
    command = [sys.executable, __file__, "probe", str(run), material]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


def probe(run: Path, material: str) -> dict[str, Any]:
    """What `clctl linear-probe` gives for "trained", "random_init" or "pixels".

    The command does all three every time; here the baselines are the same for all methods.
    """
    where, talk = machine("cpu"), Talk(quiet=True)
    trained = open_checkpoint(str(run), talk)
    dataset = load(trained.recipe.data, trained.recipe.views.size, talk.say)
    parts = trial(dataset, None)
    bench = Pictures(trained.recipe, trained.encoder, dataset, parts, where, talk).bench()
    verdict = judge(0)(bench, material)
    result = score(verdict.votes, bench.test.labels)
    penalty = verdict.settled["penalty"]
    return {**result.metrics, "ci95": list(result.interval), "penalty": penalty}


def first_images(data: Path, out: Path) -> Path:
    """CIFAR-10 with the first images of its parts, as files."""
    folder = out / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in FIRST.items():
        with np.load(data / f"{part}.npz") as arrays:
            kept = {key: arrays[key][:count] for key in ("images", "labels")}
            np.savez(folder / f"{part}.npz", **kept, classes=arrays["classes"])
    return folder


def table(out: Path) -> None:
    """Print what lies in OUT."""
    for kind in ("digits", "cifar10"):
        rows = [json.loads(p.read_text("utf-8")) for p in sorted(out.glob(f"{kind}-*.json"))]
        if not rows:
            continue
        print(f"\n{kind}\n")
        for path in sorted(out.glob(f"{kind}_*.json")):
            print(path.stem, path.read_text("utf-8"))
        for row in rows:
            low, high = row["top1_ci95"]
            base, last = row["baselines"], row["last"]
            run = out / "runs" / f"{kind}-{row['name']}-{row['seed']}"
            kept = next((run / "evaluations").glob("knn-eval-*.json")).read_text("utf-8")
            reading = json.loads(kept)["collapse"]
            cells = [
                *(row["name"], row["seed"], f"{row['steps']:,}", f"{row['seconds']:.0f}"),
                f"{row['images_per_second']:.0f}",
                f"{row['metrics']['top1']:.3f} [{low:.3f}, {high:.3f}]",
                *(f"{base['random_init']:.3f}", f"{base['pixels']:.3f}", f"{last['spread']:.2f}"),
                f"{reading['rank_me']:.0f}",
            ]
            if "linear" in row:
                low, high = row["linear"]["ci95"]
                cells += [f"{row['linear']['top1']:.3f} [{low:.3f}, {high:.3f}]", row["epochs"]]
            if "resume" in row:
                cells.append(f"{row['resume']['bit_exact']} after {row['resume']['stops']} stops")
            print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("digits", "cifar10", "table", "probe"))
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0)
    asked = parser.parse_args()
    if asked.kind == "table":
        return table(asked.out)
    if asked.kind == "probe":
        return print(json.dumps(probe(asked.out, *asked.methods)))
    names = asked.methods or list(known("clctl.methods"))
    seeds = SEEDS if asked.kind == "cifar10" else {}
    jobs = [(name, seed) for name in names for seed in seeds.get(name, (0,))]
    jobs.sort(key=lambda job: job[1])
    data = first_images(asked.data, asked.out) if asked.kind == "cifar10" else None
    epochs = {} if data is None else rehearsed(names, asked.out, data, asked.minutes)

    def work(job: tuple[str, int]) -> None:
        name, seed = job
        target = asked.out / f"{asked.kind}-{name}-{seed}.json"
        if target.exists():
            return
        try:
            if data is None:
                row = digits(name, seed, asked.out)
            else:
                row = cifar10(name, seed, asked.out, data, epochs[name])
        except SystemExit as failure:  # the others go on; the same call tries this one again
            print(failure, file=sys.stderr)
            return
        target.write_text(json.dumps({"name": name, "seed": seed, **row}, indent=1), "utf-8")
        print(f"{name} {seed}: {row['metrics']['top1']:.3f}", flush=True)

    asked.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as two:
        list(two.map(work, jobs))
        if data is not None:
            run = asked.out / "runs" / f"cifar10-{names[0]}-0"
            for material in ("random_init", "pixels"):
                target = asked.out / f"cifar10_linear_{material}.json"
                if not target.exists():
                    target.write_text(json.dumps(probed(run, material)), "utf-8")


if __name__ == "__main__":
    main()
