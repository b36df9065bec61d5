"""Commands that say how good a checkpoint is, on labels."""

from typing import Annotated

import typer

from clctl import options
from clctl.cli.app import app, printed
from clctl.console import Talk


@app.command("knn-eval")
def knn_eval(
    ckpt: options.SUBJECT,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="LIST", help="Neighbours that vote: 20, or 1,5,20,200."),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature",
            metavar="LIST",
            help="Of the weights exp(cosine / temperature). Default: 0.07.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="clctl, lightly (k 200, T 0.1) or dino (k 10 to 200)."),
    ] = None,
    layers: options.LAYERS = None,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Score a checkpoint by its nearest neighbours.

    Of several k or temperatures all are told, and the headline is chosen on held-out train.

    Example: clctl knn-eval runs/byol-1f6c2a90 --k 1,5,20,200 --fail-under top1=0.70
    """
    from clctl.commands._evaluation import Evaluate
    from clctl.commands.knn_eval import knn_eval, neighbours

    order = Evaluate(ckpt, data, split, device, fail_under, out, layers)
    report = knn_eval(order, neighbours(k, temperature, protocol), Talk(quiet))
    return printed(report, as_json, quiet)


@app.command("linear-probe")
def linear_probe(
    ckpt: options.SUBJECT,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="cached: features once, 13 penalties; sgd: augmented views, 10 learning rates.",
        ),
    ] = "cached",
    epochs: Annotated[int, typer.Option("--epochs", help="Of the sgd protocol.")] = 100,
    seeds: options.SEEDS = 1,
    label_fraction: options.FRACTION = None,
    layers: options.LAYERS = None,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Score a checkpoint by a linear classifier on its frozen features.

    Example: clctl linear-probe runs/byol-1f6c2a90 --label-fraction 0.01,0.1,1 --seeds 3
    """
    from clctl.commands._evaluation import Evaluate
    from clctl.commands._repeats import repeats
    from clctl.commands.linear_probe import linear_probe

    order = Evaluate(ckpt, data, split, device, fail_under, out, layers)
    wanted = repeats(seeds, label_fraction)
    return printed(linear_probe(order, protocol, epochs, wanted, Talk(quiet)), as_json, quiet)


@app.command()
def finetune(
    ckpt: options.CKPT,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Over the labelled images, 300 steps at least.")
    ] = 30,
    blocks: Annotated[
        int | None, typer.Option("--blocks", help="Train only the last N blocks. Default: all.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Highest rate of AdamW. Default: 1e-3; of the head alone 1e-2."),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            "--layer-decay", help="Rate of a block over the next one's. Default: ViTs 0.75, else 1."
        ),
    ] = None,
    seeds: options.SEEDS = 1,
    label_fraction: options.FRACTION = None,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Train a checkpoint with labels, beside the same encoder from random weights.

    Example: clctl finetune runs/byol-1f6c2a90 --data labelled/ --label-fraction 0.1,1
    """
    from clctl.commands import finetune
    from clctl.commands._evaluation import Evaluate
    from clctl.commands._repeats import repeats

    order = Evaluate(ckpt, data, split, device, fail_under, out)
    training = finetune.Training(epochs, blocks, lr, layer_decay)
    report = finetune.finetune(order, training, repeats(seeds, label_fraction), Talk(quiet))
    return printed(report, as_json, quiet)


@app.command()
def retrieval(
    ckpt: options.SUBJECT,
    k: Annotated[str | None, typer.Option("--k", metavar="LIST", help="Default: 1,5,10.")] = None,
    layers: options.LAYERS = None,
    fail_under: options.GATE = None,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Score a checkpoint by whether the nearest pictures are of the same class.

    Example: clctl retrieval runs/byol-1f6c2a90 --k 1,10 --fail-under map_at_r=0.5
    """
    from clctl.commands._evaluation import Evaluate
    from clctl.commands.retrieval import counts, retrieval

    order = Evaluate(ckpt, data, split, device, fail_under, out, layers)
    return printed(retrieval(order, counts(k), Talk(quiet)), as_json, quiet)


@app.command()
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="Runs or a sweep's folder, files of clctl embed or of a run's evaluations/.",
        ),
    ],
    by: Annotated[
        str, typer.Option("--by", help="What scores them: knn-eval or linear-probe.")
    ] = "knn-eval",
    fail_on_drop: Annotated[
        str | None,
        typer.Option(
            "--fail-on-drop",
            metavar="METRIC=SHARE",
            help="Exit 1 if any is worse than A by more: top1=0.005.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables for a pull request.")
    ] = False,
    data: options.DATA = None,
    split: options.SPLIT = None,
    device: options.DEVICE = "auto",
    out: options.REPORT = None,
    as_json: options.JSON = False,
    quiet: options.QUIET = False,
) -> int:
    """Say whether one model is better than another, on the same test images.

    Example: clctl compare runs/simclr-5b1d0c77 runs/byol-1f6c2a90 --fail-on-drop top1=0.005
    """
    from clctl.commands.compare import Order, compare

    order = Order(tuple(subjects), by, data, split, device, fail_on_drop, out, markdown)
    return printed(compare(order, Talk(quiet)), as_json, quiet)
