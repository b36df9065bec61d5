"""The part of the doctor that needs torch: run in a process of its own, for it may die of it.

Each finding is one line of JSON on stdout, written at once, so that what was found before a
crash is known. Nothing of torch is imported before `main` has said what comes next.
"""

import json
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clctl.images import Split

IMAGES, SIDE = 256, 72  # made pictures, and their side in pixels
COLD = 2  # steps that warm caches up and are not timed


def main(arguments: list[str]) -> None:
    """`main(["facts"])`, or `main(["train", device, seconds])`."""
    job, *rest = arguments
    if job == "train":
        _tell("train", lambda: trial(rest[0], float(rest[1])))
    else:
        for stage, look in (("torch", _torch), ("torchvision", _torchvision), ("devices", devices)):
            _tell(stage, look)


def _tell(stage: str, look: Callable[[], dict[str, Any]]) -> None:
    print(json.dumps({"stage": stage}), flush=True)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found = look()
        except Exception as error:  # whatever it is, it is what the doctor is asked for
            first = (str(error).strip() or "no reason given").splitlines()[0]
            found = {"error": f"{type(error).__name__}: {first}"}
    said = [str(w.message).strip().splitlines()[0] for w in heard if str(w.message).strip()]
    print(json.dumps({"stage": stage, **found, "warnings": said}), flush=True)


def _torch() -> dict[str, Any]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return {"version": torch.__version__, "build": build, "threads": torch.get_num_threads()}


def _torchvision() -> dict[str, Any]:
    """Import it and call one of its compiled operators, which fails where it fits another torch."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)
    assert kept.tolist() == [0]
    return {"version": torchvision.__version__}


def devices() -> dict[str, Any]:
    """GPUs that torch sees: name, free and whole memory in bytes."""
    import torch

    cards: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        cards.append({"name": torch.cuda.get_device_name(i), "free": free, "total": total})
    return {"cards": cards, "mps": torch.backends.mps.is_available()}


def trial(device: str, seconds: float) -> dict[str, Any]:
    """Train SimCLR as the recipe `folder` has it, on made pictures; the steps are a run's own."""
    import torch

    from clctl import optim
    from clctl.commands import _setup
    from clctl.data.feed import Feed
    from clctl.engine import Plan, train
    from clctl.recipe.read import find, read
    from clctl.rng import generator
    from clctl.views.apply import make

    recipe = read(find("folder"))
    where, split = _setup.machine(device), made()
    channels_last: Any = {"memory_format": torch.channels_last}
    method = _setup.method(recipe, len(split)).to(where.device).to(**channels_last)
    batch = recipe.train.batch_size
    feed = Feed(split, batch, recipe.seed, where.device, uses_labels=False)
    rate = optim.peak(recipe.optimizer, batch)
    plan = Plan(
        seed=recipe.seed,
        total=10**6,
        per_epoch=feed.per_epoch,
        device=where.device,
        batches=feed.batches,
        views=lambda raw, step: make(
            raw[0], recipe.views, generator(recipe.seed, "views", step), where.device
        ),
        lr=lambda clock: rate,
        peak=rate,
        amp=where.amp,
    )
    losses: list[float] = []
    begun = warm = time.perf_counter()
    for tick in train(plan, method, optim.build(recipe.optimizer, method)):
        losses.append(tick.fetch()["loss"])  # refuses what is not finite
        if tick.step == COLD:
            warm = time.perf_counter()
        if tick.step > COLD and time.perf_counter() - begun >= seconds:
            break
    timed = len(losses) - COLD
    few = max(1, min(5, len(losses) // 2))
    return {
        "where": where.words,
        "steps": len(losses),
        "images_per_second": timed * batch / (time.perf_counter() - warm),
        "size": recipe.views.size,
        "loss_first": sum(losses[:few]) / few,
        "loss_last": sum(losses[-few:]) / few,
    }


def made() -> "Split":
    """Pictures of soft coloured spots, no two alike: easy to tell apart, so the loss soon falls."""
    import torch
    from torch.nn.functional import interpolate

    from clctl.images import Images, Split
    from clctl.rng import generator

    coarse = torch.rand(IMAGES, 3, 4, 4, generator=generator("doctor")) * 255
    canvas = interpolate(coarse, (SIDE, SIDE), mode="bilinear").to(torch.uint8)
    images = Images(
        canvas.contiguous(memory_format=torch.channels_last), torch.full((IMAGES, 2), SIDE)
    )
    return Split("train", images, None, [str(i) for i in range(IMAGES)])
