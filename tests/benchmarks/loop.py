"""The whole training loop, beside lightly's: images per second, one image being two views.

    python tests/benchmarks/loop.py [--rounds 3] [--data NPZ] [--set KEY=VALUE]
                                    [--device cpu|cuda] [--json FILE]

SimCLR and BYOL as in the packaged `cifar10/` recipes, but with SGD, on 32 px pictures: those of an
.npz with `images` uint8 [N, 32, 32, 3], else smooth random ones. All contenders get the same
pictures, policy, encoder, widths of the heads, batch and optimizer, and the same precision: fp32,
or with `--device cuda` bf16 autocast. They take turns, each in a process of its own, for clctl
tells its process to keep freed memory, and on as many cores:

* clctl: what `clctl pretrain` runs, all its parts built from the recipe; --set changes that.
* Lightning: the module of lightly's documentation under a Lightning Trainer without logger,
  checkpoints and bar, with lightly's heads, losses and views, from PIL images in memory and a
  DataLoader with a worker per core.
* plain: the same module and loader in a loop of one's own.

Start-up and the first steps are not counted. The bound is what the device's best matrix product,
measured before each case, would make of the model's arithmetic. About 20 minutes on two cores.
"""

import multiprocessing
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peers
import torch
from lightly_modules import module, quiet
from pytorch_lightning import Callback, Trainer  # pyright: ignore[reportMissingImports]
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from clctl.commands import _bench_peaks, _bench_stages, _setup, _training
from clctl.commands._launch import parts
from clctl.console import Talk
from clctl.engine import Plan, train
from clctl.images import Images, Split
from clctl.method import Method
from clctl.recipe.read import find, read
from clctl.recipe.sections import Recipe
from clctl.store.run import Run

METHODS = ("simclr", "byol")
ENCODERS = {
    "resnet_small": "{name: resnet_small}",
    "resnet18, stock": "{name: resnet18, stem: imagenet}",
    "resnet18, small stem": "{name: resnet18, stem: small}",
}
# Encoder, batch, steps that are timed.
CASES = {
    "cpu": (
        ("resnet_small", 256, 12),
        ("resnet18, stock", 256, 6),
        ("resnet18, small stem", 64, 3),
    ),
    "cuda": tuple((name, 512, 60) for name in ENCODERS),
}
# Steps that are not timed: as many batches as loaders prepare ahead, so that in the timed steps
# they make just those that are taken.
WARM = 2 * peers.CORES
SGD = "optimizer={name: sgd, lr: 0.06, momentum: 0.9, weight_decay: 5e-4}"
# Of the small encoder, which is smaller than the recipes' own.
HEADS = {
    "simclr": ("method.projector=[512, 128]",),
    "byol": ("method.projector=[512, 128]", "method.predictor=512"),
}


@dataclass(frozen=True)
class Job:
    """What all contenders train, on which pictures (uint8 [N, 32, 32, 3]), and for how long."""

    recipe: Recipe
    pictures: np.ndarray
    where: _setup.Machine
    steps: int


def recipe(method: str, name: str, batch: int, changes: Sequence[str]) -> Recipe:
    """The packaged recipe with another encoder, batch and optimizer."""
    heads = HEADS[method] if name == "resnet_small" else ()
    own = (f"encoder={ENCODERS[name]}", f"train.batch_size={batch}", SGD, *heads)
    return read(find(f"cifar10/{method}"), (*own, *changes))


class Stopwatch:
    """Images per second of some steps, told of each step that is over."""

    def __init__(self, job: Job) -> None:
        self.job, self.total = job, WARM + job.steps
        self.marks: list[float] = []

    def lap(self) -> None:
        """A step is over; only the first and the last of those timed wait for the device."""
        self.marks.append(0.0)
        if len(self.marks) in (WARM, self.total):
            _bench_stages.synchronise(self.job.where.device)
            self.marks[-1] = time.perf_counter()

    @property
    def rate(self) -> float:
        """Images per second, when all steps are over."""
        images = self.job.steps * self.job.recipe.train.batch_size
        return images / (self.marks[self.total - 1] - self.marks[WARM - 1])


def built(job: Job) -> tuple[Plan, Method, Optimizer]:
    """What `clctl pretrain` gives its engine."""
    count, high, wide, _ = job.pictures.shape
    sizes = torch.tensor([[high, wide]]).repeat(count, 1)
    images = Images(torch.from_numpy(job.pictures).permute(0, 3, 1, 2), sizes)
    split = Split("train", images, None, [str(i) for i in range(count)])
    method, feed, optimizer = parts(job.recipe, split, job.where)
    trainer = _training.Trainer(
        recipe=job.recipe,
        method=method,
        optimizer=optimizer,
        split=split,
        feed=feed,
        where=job.where,
        run=Run(Path(job.recipe.name)),  # never made
        about={},
        manifest={},
        talk=Talk(quiet=True),
    )
    return trainer.plan, method, optimizer


def by_clctl(job: Job) -> float:
    """Images per second of clctl's engine."""
    watch = Stopwatch(job)
    for _ in islice(train(*built(job)), watch.total):
        watch.lap()
    return watch.rate


class Laps(Callback):
    """Tells a stopwatch of Lightning's steps."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *_: Any) -> None:
        self.watch.lap()


def loader(job: Job) -> DataLoader:
    """lightly's views in workers."""
    return DataLoader(
        peers.Pictures(job.pictures, peers.lightly_views(job.recipe.views)),
        batch_size=job.recipe.train.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=peers.CORES,
        pin_memory=job.where.device.type == "cuda",
    )


def by_lightning(job: Job) -> float:
    """Images per second of lightly under Lightning."""
    watch, cuda = Stopwatch(job), job.where.device.type == "cuda"
    trainer = Trainer(
        max_steps=watch.total,
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if job.where.amp else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Laps(watch)],
    )
    trainer.fit(module(job.recipe), loader(job))
    return watch.rate


def by_hand(job: Job) -> float:
    """Images per second of lightly's parts in a plain loop."""
    watch, device, amp = Stopwatch(job), job.where.device, job.where.amp
    peer = module(job.recipe).to(device).train()
    optimizer = peer.configure_optimizers()
    batches = islice(loader(job), watch.total)
    for step, (views, _) in enumerate(batches):
        views = [view.to(device, non_blocking=True) for view in views]
        with torch.autocast(device.type, amp, enabled=amp is not None):
            loss = peer.training_step((views, None), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.lap()
    return watch.rate


def bound(job: Job) -> tuple[float, float]:
    """Operations of one image, forward and backward, and those per second of the device."""
    top = _bench_peaks.peaks(job.where.device, job.where.amp)["matmul_flops"]
    plan, method, _ = built(job)
    _, forward = _bench_stages.one(plan, method)
    sums = _bench_peaks.arithmetic(forward, job.recipe.train.batch_size)
    return sums["flops_per_image"], top


CONTENDERS = {"clctl": by_clctl, "Lightning": by_lightning, "plain": by_hand}


def main() -> None:
    """Measure and print a table."""
    options = peers.parser(__doc__, rounds=3)
    options.add_argument("--data", type=Path, metavar="NPZ")
    asked = options.parse_args()
    with ExitStack() as stack:
        own = {who: stack.enter_context(_process()) for who in CONTENDERS}
        compare(options, asked, own)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=quiet)


def compare(options: ArgumentParser, asked: Namespace, own: dict[str, ProcessPoolExecutor]) -> None:
    """Let each contender run all cases in its own process."""
    where = _setup.machine(asked.device, "bf16" if asked.device == "cuda" else "fp32")
    facts, pictures, rows = peers.machine(where.device), peers.pictures(asked.data), []
    against = [f"clctl / {who}" for who in list(CONTENDERS)[1:]]
    last = ("GFLOP per image", "bound", "clctl of bound")
    print(peers.heading(("method", "encoder", "batch", *CONTENDERS, *against, *last)))
    for name, batch, steps in CASES[asked.device]:
        if len(pictures) < (WARM + steps) * batch:
            options.error(f"--data: one epoch must hold {(WARM + steps) * batch:,} pictures")
        for method in METHODS:
            job = Job(recipe(method, name, batch, asked.set), pictures, where, steps)
            flops, top = bound(job)
            found = peers.turns({who: _turn(who, own[who], job) for who in own}, asked.rounds)
            ours, *others = found.values()
            rates = [f"{median(rates):,.0f}" for rates in found.values()]
            ratios = [peers.ratio(ours, theirs) for theirs in others]
            reached = f"{median(ours) * flops / top:.0%}"
            most = [f"{flops / 1e9:.3g}", f"{top / flops:,.0f}", reached]
            print(peers.line([method, name, batch, *rates, *ratios, *most]), flush=True)
            setting = {"method": method, "encoder": name, "batch": batch, "steps": steps}
            limit = {"flops_per_image": flops, "matmul_flops": top}
            rows.append({**setting, **limit, "images_per_second": found})
    facts |= {"set": asked.set, "precision": where.precision, "data": str(asked.data or "smooth")}
    peers.keep(asked.json, facts, rows)
    print(
        f"\nimages/s, medians of {asked.rounds} rounds, {where.precision}, "
        f"{len(pictures):,} pictures; {peers.about(facts)}"
    )


def _turn(who: str, process: ProcessPoolExecutor, job: Job) -> Callable[[], float]:
    return lambda: process.submit(CONTENDERS[who], job).result()


if __name__ == "__main__":
    main()
