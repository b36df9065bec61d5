"""train.compile: compiled steps beside eager ones, when they are compiled again, and refusals."""

from dataclasses import replace

import pytest
import torch
import toy
from torch import nn
from torch._dynamo.utils import counters

from clctl import optim
from clctl.commands import _compiled
from clctl.commands.pretrain import Order, pretrain
from clctl.console import Exit, Problem, Talk
from clctl.engine import train
from clctl.method import Batch
from clctl.recipe import sections
from clctl.recipe.plugins import known
from clctl.store import reading

PHASES = {"swav": 2}  # its queue comes into use after an epoch


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    torch.compiler.reset()
    yield
    torch.compiler.config.dynamic_sources = ""
    torch.compiler.reset()


def ticks(name: str, steps: int, compiled=None):
    """Losses of a short run in float64, which keeps rounding from growing; and its method."""
    method = toy.method(name).double()
    rough = toy.plan(steps, sizes=toy.SIZES.get(name, (8, 8)))

    def views(images, step):
        batch = rough.views(images, step)
        return Batch(tuple(view.double() for view in batch.views), batch.labels)

    plan = replace(rough, views=views, compiled=compiled)
    for tick in train(plan, method, optim.build(sections.SGD(lr=0.1), method)):
        assert tick.out is not None
        yield tick.out.loss.item()


@pytest.mark.parametrize("name", known("clctl.methods"))
def test_a_step_is_traced_once_a_phase(name, monkeypatch):
    compiled = _compiled.on(torch.device("cpu"))
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda method, **kw: real(method, backend="eager"))
    counters.clear()
    seen, losses = [], []
    for loss in ticks(name, 8, compiled):
        losses.append(loss)
        seen.append(counters["stats"]["unique_graphs"])
    assert losses == pytest.approx(list(ticks(name, 8)), rel=1e-12)
    assert seen[0] > 0
    grown = [step for step in range(1, 8) if seen[step] > seen[step - 1]]
    assert len(grown) <= PHASES.get(name, 1) - 1, seen
    if name not in ("cpc", "moco_v1", "moco_v2"):  # a GRU, and keys in an order drawn in forward
        assert seen[-1] == PHASES.get(name, 1)


@pytest.mark.parametrize(
    "name", ["dino", *(pytest.param(n, marks=pytest.mark.soak) for n in ("simclr", "byol", "swav"))]
)
def test_fifty_compiled_steps_equal_eager_ones(name):
    compiled = _compiled.on(torch.device("cpu"))
    assert list(ticks(name, 50, compiled)) == pytest.approx(list(ticks(name, 50)), rel=1e-9)


def test_the_graphs_of_cuda_are_marked_at_every_step(monkeypatch):
    asked, marked = [], []
    monkeypatch.setattr(torch, "compile", lambda method, **kw: asked.append(kw) or method)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marked.append(1))
    compiled = _compiled.on(torch.device("cuda"))
    assert len([*ticks("simclr", 3, compiled)]) == 3
    assert (asked, len(marked)) == ([{"mode": "reduce-overhead"}], 3)


def test_a_machine_without_a_compiler_is_told_before_anything_is_made(tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fails)
    run = tmp_path / "run"
    with pytest.raises(Problem, match=r"No working C\+\+ compiler found$") as caught:
        pretrain(Order("simclr", ("train.compile=true",), out=run), Talk(quiet=True))
    assert (caught.value.exit, caught.value.code) == (Exit.RESOURCES, "train.no-compiler")
    assert "train.compile=false" in caught.value.text()
    assert not run.exists()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_compiled_run_that_was_stopped_ends_in_the_same_bytes(tmp_path):
    changes = ("train.compile=true", "train.epochs=4", "encoder.width=8", "guard.action=warn")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(Order("simclr", changes, out=whole), Talk(quiet=True))
    starts = 0
    while True:
        order = Order("simclr", changes, out=parts, max_time="1s")
        starts += 1
        if pretrain(order, Talk(quiet=True)).document["status"] != "stopped":
            break
    assert starts > 2
    ends = [sorted((run / "checkpoints").iterdir())[-1] for run in (whole, parts)]
    assert [end.name for end in ends] == [ends[0].name] * 2
    for name in ("model.safetensors", "state.safetensors"):
        assert reading.digest(ends[0] / name) == reading.digest(ends[1] / name)
