"""`views.color: matrix` beside `exact`: how far apart on photographs, and how much faster.

    python tests/benchmarks/colors.py PICTURES... [--rounds N]

PICTURES are folders of images of one size, or `.npz` files with `images` uint8 [N, H, W, 3]. Prints
two tables: |matrix - exact| in levels of 255, by operation, in views of each set's own size; and the
time of views alone, medians over interleaved rounds, on one thread unless OMP_NUM_THREADS says
otherwise. `no colours` is the same policy without jitter and grayscale, which no way of colouring
can beat; `colours alone` is the ratio of what each way takes beyond it.
"""

import argparse
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


def apart(source: Images, group: ViewGroup, size: int) -> torch.Tensor:
    """|matrix - exact| of all values of a view, in levels of 255."""
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    exact, ours = (
        make(
            source,
            Views(size=size, groups=(group,), color=color, **plain),
            generator("colors"),
            torch.device("cpu"),
        ).views[0]
        for color in ("exact", "matrix")
    )
    return (255 * (ours - exact)).abs().flatten()


def seconds(source: Images, policy: Views, step: int) -> float:
    """Per batch, of two."""
    begun = time.perf_counter()
    for batch in range(2):
        make(source, policy, generator(step, batch), torch.device("cpu"))
    return (time.perf_counter() - begun) / 2


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    order = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sets = {path: photographs(path) for path in order.pictures}
    print("| pictures | operation | median | mean | 99th percentile |\n|---|---|---|---|---|")
    for path, pictures in sets.items():
        for name, group in OPERATIONS.items():
            values = apart(images(pictures), group, pictures.shape[2])
            high = np.percentile(values.numpy(), 99)
            print(f"| {path} | {name} | {values.median():.2f} | {values.mean():.2f} | {high:.1f} |")
    print("\n| view | exact | matrix | no colours | exact / matrix | colours alone |")
    print("|---|---|---|---|---|---|")
    pictures = next(iter(sets.values()))
    bare = SIMCLR.model_copy(update={"jitter": None, "grayscale": 0.0})
    torch.zeros(2**23)  # from now on the allocator keeps what is freed, as it does in training
    for size, batch in CASES:
        source = torch.nn.functional.interpolate(pictures[:batch], size=(size, size))
        source = images(source.contiguous(memory_format=torch.channels_last))
        plans = [
            Views(size=size, groups=(SIMCLR,)),
            Views(size=size, groups=(SIMCLR,), color="matrix"),
            Views(size=size, groups=(bare,)),
        ]
        rounds = [[seconds(source, plan, turn) for plan in plans] for turn in range(order.rounds)]
        exact, matrix, none = (1000 * median(column) for column in zip(*rounds, strict=True))
        ratio = median(e / m for e, m, _ in rounds)
        alone = median((e - n) / max(m - n, 1e-6) for e, m, n in rounds)
        print(
            f"| {size} px, {batch} images | {exact:.1f} ms | {matrix:.1f} ms | {none:.1f} ms "
            f"| {ratio:.2f} | {alone:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
