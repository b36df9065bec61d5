"""Every method on two and four gloo ranks: gradients, statistics and state of one process.

`PYTHONPATH=. python tests/test_methods_ranks.py` prints the largest differences as a table.
"""

import tempfile
from pathlib import Path

import pytest
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

STEPS = 3
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


def one_of_several(rank: int, ranks: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks)
    found: dict[str, Tensor] = {}
    for name in NAMES:
        found |= measure(name)
    save_file({key: value.contiguous() for key, value in found.items()}, f"{folder}/{rank}")
    dist.destroy_process_group()


def several(ranks: int, folder: Path) -> list[dict[str, Tensor]]:
    """What each rank measured."""
    spawn(one_of_several, (ranks, str(folder)), nprocs=ranks)
    return [load_file(folder / str(rank)) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_do_what_one_process_does(ranks: int, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parts = several(ranks, tmp_path)
    for name in NAMES:
        whole = measure(name)
        assert any(value.abs().max() > 1e-4 for key, value in whole.items() if ".grad." in key)
        for part in parts:
            for key, value in whole.items():
                torch.testing.assert_close(part[key], value, rtol=1e-7, atol=1e-10, msg=key)


def table(ranks: int, folder: Path) -> None:
    """Largest difference from one process over the largest value, by method and kind."""
    parts = several(ranks, folder)
    for name in NAMES:
        kinds = {"grad": (0.0, 0.0), "state": (0.0, 0.0), "statistics": (0.0, 0.0)}
        for key, value in measure(name).items():
            kind = "statistics" if "running_" in key else key.removeprefix(f"{name}.").split(".")[0]
            apart, most = kinds[kind]
            differ = max(float((part[key].double() - value.double()).abs().max()) for part in parts)
            kinds[kind] = max(apart, differ), max(most, float(value.double().abs().max()))
        shares = [apart / most if most else 0.0 for apart, most in kinds.values()]
        print(f"| `{name}` | {ranks} | " + " | ".join(f"{share:.0e}" for share in shares) + " |")


if __name__ == "__main__":
    for number in (2, 4):
        with tempfile.TemporaryDirectory() as place:
            table(number, Path(place))
