"""The options of the command line, spelt and explained once."""

from pathlib import Path
from typing import Annotated

import typer

RECIPE = Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged recipe.")]
CKPT = Annotated[
    str, typer.Argument(help="A run folder, a checkpoint folder, or a .safetensors file of clctl.")
]
DATA = Annotated[
    str | None,
    typer.Option("--data", help="Other data: a source's name, a .npz or .safetensors, a folder."),
]
SPLIT = Annotated[
    str | None, typer.Option("--split", help="train, val, test or all. Default: test, else val.")
]
SUBJECT = Annotated[
    str,
    typer.Argument(metavar="CKPT", help="A run or checkpoint, or a file of clctl embed."),
]
SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
DEVICE = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, all or mps.")]
GATE = Annotated[
    str | None,
    typer.Option("--fail-under", metavar="METRIC=SHARE", help="Exit 1 below it: top1=0.70."),
]
LAYERS = Annotated[
    int | None,
    typer.Option("--layers", help="Of a ViT: class tokens of the last N blocks, mean of patches."),
]
SEEDS = Annotated[int, typer.Option("--seeds", help="Repeat with this many seeds.")]
FRACTION = Annotated[
    str | None,
    typer.Option(
        "--label-fraction",
        metavar="SHARES",
        help="Learn from these shares of the labels, evenly by class: 0.01,0.1,1.",
    ),
]
REPORT = Annotated[Path | None, typer.Option("-o", "--out", help="Also write the JSON here.")]
JSON = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
QUIET = Annotated[bool, typer.Option("-q", "--quiet", help="Only the result, in one word.")]
OUT = "-o", "--out"

INIT_FROM = Annotated[
    str | None,
    typer.Option("--init-from", metavar="CKPT", help="Start from another run's encoder."),
]
MAX_TIME = Annotated[
    str | None,
    typer.Option("--max-time", help="Save and exit 75 after this long: 8h, 90m, 1h30m."),
]
ON_NAN = Annotated[
    str,
    typer.Option("--on-nan", help="Not finite: stop, or rollback and go on without that batch."),
]
DRY_RUN = Annotated[
    bool, typer.Option("--dry-run", help="Check all, time a few steps, write nothing.")
]
FRESH = Annotated[bool, typer.Option("--fresh", help="A new folder, even if this run exists.")]
DOWNLOAD = Annotated[
    bool, typer.Option("--download", help="Fetch public data or weights that are not there.")
]
