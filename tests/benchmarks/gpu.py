"""What only a GPU can show, in one command; the answers stay in OUT as JSON.

    python tests/benchmarks/gpu.py OUT [--pictures 4096] [--only NAME...] [--set KEY=VALUE]
                                   [--device cuda]

A second call goes on where the first one stopped. It does, in this order:

* loop, views: `loop.py` and `views.py` beside lightly, torchvision and kornia, which must be there;
* resnet50: `clctl bench imagenet/simclr`, ResNet-50 at 224 px, batch 256, pictures resident;
* vit: `clctl bench imagenet/dino_vit_small`, ViT-S/16 with 2 x 224 and 8 x 96 px, batch 256;
* each of these two again with `train.compile` and with `views.color` fused as well;
* growth: `growth.py`, whose answers are files of their own.

--set changes the benches alone, such as for a try on a processor: `--device cpu --pictures 64
--set train.batch_size=4 --set views.size=32 --only resnet50 vit`. Prints a line of each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from growth import pictures

HERE = Path(__file__).parent
BENCHES = {
    "resnet50": ("imagenet/simclr",),
    "vit": ("imagenet/dino_vit_small", "views.groups.2.count=8"),
}
WAYS = {
    "": (),
    "-compiled": ("train.compile=true",),
    "-fused": ("train.compile=true", "views.color=fused"),
}


def sets(changes: tuple[str, ...]) -> list[str]:
    """As options of a command."""
    return [word for change in changes for word in ("--set", change)]


def answered(out: Path, command: list[str]) -> None:
    """Keep what a command of clctl prints, once it has come to its end."""
    if not out.exists():
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        out.write_text(done.stdout, "utf-8")
    found = json.loads(out.read_text("utf-8"))
    print(
        f"{out.stem}: {found['images_per_second']:,.0f} images/s; {found['bottleneck']}", flush=True
    )


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--only", nargs="+", default=["loop", "views", *BENCHES, "growth"])
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    where = ["--device", asked.device]
    for name in ("loop", "views"):
        kept = asked.out / f"{name}.json"
        if name in asked.only and not kept.exists():
            command = [sys.executable, str(HERE / f"{name}.py"), *where, "--json", str(kept)]
            subprocess.run(command, check=True)
    for name, (recipe, *more) in BENCHES.items():
        for way, changes in WAYS.items() if name in asked.only else ():
            given = (*more, "train.batch_size=256", *changes, *asked.changes)
            data = str(pictures(asked.out, 224, asked.pictures))
            command = [sys.executable, "-m", "clctl", "bench", recipe, "--data", data]
            answered(asked.out / f"{name}{way}.json", [*command, *sets(given), *where])
    if "growth" in asked.only:
        command = [sys.executable, str(HERE / "growth.py"), str(asked.out), *where]
        command += ["--rounds", "1"]  # a GPU is often had for minutes
        subprocess.run([*command, "--chart", str(asked.out / "growth.svg")], check=True)


if __name__ == "__main__":
    main()
