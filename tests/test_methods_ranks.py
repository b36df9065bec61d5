"""Every method on two gloo ranks: gradients, statistics and state of one process, whole batch."""

from pathlib import Path

import torch
import torch.distributed as dist
import toy
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from clctl.distributed import world
from clctl.method import Batch, Clock
from clctl.nn.norm import synchronised
from clctl.recipe.plugins import known

RANKS, STEPS = 2, 3
NAMES = tuple(known("clctl.methods"))


def measure(name: str) -> dict[str, Tensor]:
    """Averaged gradients of the last of a few steps of plain descent, and the state after it."""
    rank, ranks = world()
    method = synchronised(toy.method(name)).double()
    rows = slice(rank * toy.BATCH // ranks, (rank + 1) * toy.BATCH // ranks)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        clock = Clock(step + 4, 20, toy.PER_EPOCH)  # behind what stands still at first
        images = next(toy.batches(0, step)).double()
        whole = toy.views(0, step, images, sizes=toy.SIZES.get(name, (8, 8)))
        assert whole.labels is not None
        views = tuple(view.double()[rows] for view in whole.views)
        out = method(Batch(views, whole.labels[rows]), clock)
        method.zero_grad()
        out.loss.backward()
        with torch.no_grad():
            for key, p in method.named_parameters():
                if p.grad is not None:
                    if ranks > 1:
                        dist.all_reduce(p.grad)
                        p.grad /= ranks
                    found[f"{name}.grad.{key}"] = p.grad.clone()
                    p -= 0.1 * p.grad
            method.after_step(out, clock)
    state = {f"{name}.state.{key}": value.clone() for key, value in method.state_dict().items()}
    return {**found, **state}


def one_of_two(rank: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    found: dict[str, Tensor] = {}
    for name in NAMES:
        found |= measure(name)
    save_file({key: value.contiguous() for key, value in found.items()}, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_two_ranks_do_what_one_process_does(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn(one_of_two, (str(tmp_path),), nprocs=RANKS)
    parts = [load_file(tmp_path / str(rank)) for rank in range(RANKS)]
    for name in NAMES:
        whole = measure(name)
        assert any(value.abs().max() > 1e-4 for key, value in whole.items() if ".grad." in key)
        for part in parts:
            for key, value in whole.items():
                torch.testing.assert_close(part[key], value, rtol=1e-7, atol=1e-10, msg=key)
