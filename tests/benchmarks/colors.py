"""`views.color: matrix` beside `exact`: how far apart on photographs, and how much faster.

    python tests/benchmarks/colors.py PICTURES... [--rounds N] [--device cuda]

PICTURES are folders of images of one size, or `.npz` files with `images` uint8 [N, H, W, 3]. Prints
two tables: how far matrix is from exact in levels of 255, by operation, in views of each set's own
size; and the time of views alone, medians over interleaved rounds, on one thread unless
OMP_NUM_THREADS says otherwise. `no colours` is the same policy without jitter and grayscale, which
no way of colouring can beat; `colours alone` is the ratio of what each way takes beyond it. With
--device cuda (not run here) pictures lie and views are made on the GPU, and `fused` has its lines
as well; elsewhere it is exact's own code.
"""

import argparse
import itertools
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from clctl.images import Images
from clctl.recipe.policy import Blur, Crop, Jitter, ViewGroup, Views
from clctl.rng import generator
from clctl.views.apply import make

MOST = 1000  # pictures of a set
CASES = ((32, 256), (64, 128), (96, 64))  # side of a view, batch
SHAPE = {"crop": Crop(), "hflip": 0.5}
SIMCLR = ViewGroup(count=2, jitter=Jitter(), grayscale=0.2, blur=Blur(), **SHAPE)
HUE = Jitter(p=1, brightness=0, contrast=0, saturation=0)
OPERATIONS = {
    "hue alone": ViewGroup(jitter=HUE, **SHAPE),
    "jitter without hue": ViewGroup(jitter=Jitter(p=1, hue=0), **SHAPE),
    "jitter": ViewGroup(jitter=Jitter(p=1), **SHAPE),
    "SimCLR's policy": SIMCLR.model_copy(update={"count": 1}),
}


def photographs(path: Path) -> torch.Tensor:
    """At most MOST pictures spread over a set: uint8 [n, 3, H, W]."""
    if path.suffix == ".npz":
        lines = np.load(path)["images"]
        lines = lines[:: max(1, len(lines) // MOST)][:MOST]
    else:
        files = sorted(f for f in path.rglob("*") if f.is_file())
        files = files[:: max(1, len(files) // MOST)][:MOST]
        lines = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    return torch.from_numpy(lines).permute(0, 3, 1, 2)


def images(pictures: torch.Tensor) -> Images:
    """Pictures of one size as the views take them."""
    return Images(pictures, torch.tensor([pictures.shape[2:]]).repeat(len(pictures), 1))


def apart(way: str, source: Images, group: ViewGroup, size: int) -> torch.Tensor:
    """|way - exact| of all values of a view, in levels of 255."""
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    exact, ours = (
        make(
            source,
            Views(size=size, groups=(group,), color=color, **plain),
            generator("colors"),
            source.canvas.device,
        ).views[0]
        for color in ("exact", way)
    )
    return (255 * (ours - exact)).abs().flatten().cpu()


def seconds(source: Images, policy: Views, step: int) -> float:
    """Per batch, of two."""
    device = source.canvas.device
    begun = time.perf_counter()
    for batch in range(2):
        make(source, policy, generator(step, batch), device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / 2


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default="cpu")
    order = parser.parse_args()
    ways = ("matrix", "fused") if order.device.type == "cuda" else ("matrix",)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sets = {path: photographs(path).to(order.device) for path in order.pictures}
    print("| pictures | way | operation | median | mean | 99th percentile |")
    print("|---|---|---|---|---|---|")
    for path, pictures in sets.items():
        for way, (name, group) in itertools.product(ways, OPERATIONS.items()):
            values = apart(way, images(pictures), group, pictures.shape[2])
            middle, high = np.percentile(values.numpy(), [50, 99])
            print(f"| {path} | {way} | {name} | {middle:.2g} | {values.mean():.2g} | {high:.2g} |")
    print("\n| view | way | exact | this way | no colours | exact / this | colours alone |")
    print("|---|---|---|---|---|---|---|")
    pictures = next(iter(sets.values()))
    bare = SIMCLR.model_copy(update={"jitter": None, "grayscale": 0.0})
    torch.zeros(2**23)  # from now on the allocator keeps what is freed, as it does in training
    for size, batch in CASES:
        source = torch.nn.functional.interpolate(pictures[:batch], size=(size, size))
        source = images(source.contiguous(memory_format=torch.channels_last))
        plans = [
            Views(size=size, groups=(SIMCLR,)),
            Views(size=size, groups=(bare,)),
            *(Views(size=size, groups=(SIMCLR,), color=way) for way in ways),
        ]
        for plan in plans:
            seconds(source, plan, 0)  # kernels are compiled at their first use
        rounds = [[seconds(source, plan, turn) for plan in plans] for turn in range(order.rounds)]
        exact, none, *ours = (1000 * median(column) for column in zip(*rounds, strict=True))
        for place, way in enumerate(ways, 2):
            ratio = median(turn[0] / turn[place] for turn in rounds)
            alone = median(
                (turn[0] - turn[1]) / max(turn[place] - turn[1], 1e-6) for turn in rounds
            )
            print(
                f"| {size} px, {batch} images | {way} | {exact:.1f} ms | {ours[place - 2]:.1f} ms "
                f"| {none:.1f} ms | {ratio:.2f} | {alone:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
