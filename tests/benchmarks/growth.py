"""How the cost of a step grows with the batch, the side of the pictures and the size of the set.

    python tests/benchmarks/growth.py FOLDER [--rounds 3] [--chart growth.svg] [--device cpu|cuda]

Each point is a `clctl bench` of cifar10/simclr with `resnet_small` on smooth random pictures, which
are made in FOLDER (3 GB at a million) and left there, as are the answers: a second call goes on
where the first one stopped. All points are measured in every round; the table tells of the round
with the median rate, and the chart shades from the lowest to the highest.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from clctl.rng import generator

BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)
SIDES = (32, 64, 96, 128, 160, 224)
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SERIES = {
    "batch": [(batch, 32, 10_000) for batch in BATCHES],
    "side in px": [(64, side, 1_000) for side in SIDES],
    "pictures": [(256, 32, count) for count in COUNTS],
}
ENCODER = ("encoder={name: resnet_small}", "method.projector=[512, 128]")


def pictures(folder: Path, side: int, count: int) -> Path:
    """An .npz of `images` uint8 [count, side, side, 3]; a thousand of them, over and over."""
    path = folder / f"{count}x{side}.npz"
    if not path.exists():
        coarse = torch.rand(min(count, 1000), 3, 9, 9, generator=generator(0, "pictures"))
        fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
        some = fine.clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
        draft = path.with_suffix(".part.npz")
        np.savez(draft, images=some[np.arange(count) % len(some)])
        draft.rename(path)
    return path


def measured(folder: Path, point: tuple[int, int, int], turn: int, device: str) -> dict[str, Any]:
    """The document of one bench, from FOLDER where it is there."""
    batch, side, count = point
    answer = folder / f"{device}-{batch}-{side}-{count}-{turn}.json"
    if not answer.exists():
        changes = (*ENCODER, f"train.batch_size={batch}", f"views.size={side}")
        words = [word for change in changes for word in ("--set", change)]
        command = [sys.executable, "-m", "clctl", "bench", "cifar10/simclr", "--json"]
        command += ["--device", device, "--data", str(pictures(folder, side, count)), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        answer.write_text(done.stdout, encoding="utf-8")
    return json.loads(answer.read_text("utf-8"))


def row(value: int, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    stages, memory = found["stages"], found["memory"]
    share = {name: f"{100 * stages[name]['share']:.1f} %" for name in ("data", "views")}
    return [
        f"{value:,}",
        f"{found['images_per_second']:,.0f}",
        f"{1000 * found['seconds_per_step']:,.1f}",
        share["data"],
        share["views"],
        f"{found['startup']['data']:.1f}",
        f"{(memory['cuda_bytes'] or memory['rss_bytes']) / 2**30:.2f}",
    ]


def main() -> None:
    """Measure what is missing, print and draw."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--chart", type=Path)
    options.add_argument("--device", default="cpu")
    asked = options.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    points = dict.fromkeys(point for points in SERIES.values() for point in points)
    found = {point: list[dict[str, Any]]() for point in points}
    for turn in range(asked.rounds):
        for point, documents in found.items():
            documents.append(measured(asked.folder, point, turn, asked.device))
    for documents in found.values():
        documents.sort(key=lambda document: document["images_per_second"])
    report(found, asked.chart)


def report(found: dict[tuple[int, int, int], list[dict[str, Any]]], chart: Path | None) -> None:
    """Print the tables and draw the chart; the documents of a point rise by rate."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for place, (name, points) in enumerate(SERIES.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        values = [point[place] for point in points]
        rounds = [found[point] for point in points]
        middle = [documents[len(documents) // 2] for documents in rounds]
        heads = (name, "images/s", "ms/step", "data", "views", "loading, s", "memory, GiB")
        print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
        for value, document in zip(values, middle, strict=True):
            print(f"| {' | '.join(row(value, document))} |", flush=True)
        low, rates, high = (
            [document["images_per_second"] for document in documents]
            for documents in ([r[0] for r in rounds], middle, [r[-1] for r in rounds])
        )
        axes.fill_between(values, low, high, alpha=0.2)
        axes.plot(values, rates, marker="o")
        axes.set(xscale="log", xlabel=name, ylim=(0, 1.1 * max(high)))
        axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45, fontsize=7)
        axes.minorticks_off()
    figure.axes[0].set_ylabel("images per second")
    if chart:
        figure.savefig(chart, metadata={"Date": None})


if __name__ == "__main__":
    main()
