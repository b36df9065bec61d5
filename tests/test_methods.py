"""The contract of every module in clctl/methods, and what is particular to each.

Run this file as a script to write the golden curves anew.
"""

import gc
import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from torch import nn

from clctl import optim
from clctl.engine import train
from clctl.method import Batch, Clock, Method, Scale
from clctl.nn.spread import spread
from clctl.recipe import sections
from clctl.recipe.plugins import card, known
from clctl.recipe.read import find, read
from clctl.rng import seeded

OPTIMIZERS = {
    "lars": sections.LARS(lr=1.0, eta=0.1),
    "sgd": sections.SGD(lr=0.1),
    "adamw": sections.AdamW(lr=0.01),
}
RATES = {"cpc": 0.5}  # of the golden curves, where 0.05 moves too little
GOLDEN = Path(__file__).parent / "golden"
CLOCK = Clock(5, 20, toy.PER_EPOCH)

every_method = pytest.mark.parametrize("name", known("clctl.methods"))


def build(name: str, seed: int = 0, dropout: float = 0.0, **changes) -> Method:
    return toy.method(name, seed, dropout, **changes)


def views(name: str, step: int = 0) -> Batch:
    images = next(toy.batches(0, step))
    return toy.views(0, step, images, sizes=toy.SIZES.get(name, (8, 8)))


def plan(name: str, total: int, seed: int = 0, **changes):
    return toy.plan(total, seed, sizes=toy.SIZES.get(name, (8, 8)), **changes)


def copy(tensors: dict) -> dict:
    return {key: value.detach().clone() for key, value in tensors.items()}


def statistics(method: Method) -> set[str]:
    """Names of batch-norm statistics, the one state that `forward` may move."""
    return {
        f"{name}.{key}"
        for name, module in method.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for key, _ in module.named_buffers()
    }


def trained(name: str, steps: int = 3) -> Method:
    method = build(name)
    ticks = train(plan(name, 10), method, optim.build(OPTIMIZERS["sgd"], method))
    assert [next(ticks).step for _ in range(steps)][-1] == steps
    return method


@every_method
def test_forward_is_pure_but_for_batch_norm_statistics(name):
    method = trained(name)
    before, batch = copy(method.state_dict()), views(name)
    given = [view.clone() for view in batch.views]
    one, two = method(batch, CLOCK), method(batch, CLOCK)
    assert torch.equal(one.loss, two.loss)
    assert one.metrics.keys() == two.metrics.keys()
    assert all(torch.equal(one.metrics[key], two.metrics[key]) for key in one.metrics)
    after = method.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved <= statistics(method)
    assert all(torch.equal(a, b) for a, b in zip(given, batch.views, strict=True))


@every_method
def test_a_step_is_a_float32_loss_with_detached_readings(name):
    out = build(name)(views(name), CLOCK)
    assert (out.loss.shape, out.loss.dtype) == ((), torch.float32)
    assert out.loss.requires_grad
    watch = out.watch
    kept = [*out.metrics.values(), *out.carry.values(), *watch.values()]
    assert not any(t.requires_grad for t in kept)
    assert all(value.dim() == 0 for value in out.metrics.values())
    assert 0.05 < spread(watch["projections"]) < 1.2
    assert watch["features"].shape[1] == build(name).encoder.width
    if "predictions" in watch:
        torch.testing.assert_close(watch["predictions"].sum(dim=1), torch.ones(toy.BATCH))


@every_method
def test_bf16_moves_the_loss_by_its_rounding_alone(name):
    plan_ = replace(plan(name, 3), amp=torch.bfloat16)
    method, batch = trained(name), views(name)
    with torch.no_grad():
        exact = method(batch, CLOCK).loss
        with torch.autocast("cpu", torch.bfloat16):
            short = method(batch, CLOCK).loss
    assert short.dtype == torch.float32
    assert abs(short - exact) < 0.05 * abs(exact) + 0.02
    ticks = list(train(plan_, method, optim.build(OPTIMIZERS["sgd"], method)))
    assert math.isfinite(ticks[-1].fetch()["loss"])
    assert all(p.dtype == torch.float32 for p in method.parameters())


@every_method
def test_every_trained_parameter_gets_a_gradient_and_no_other_does(name):
    method = build(name)
    method(views(name), CLOCK).loss.backward()
    for key, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
        if p.grad is not None and p.dim() > 1:
            assert p.grad.abs().max() > 1e-6, key
    held = [id(p) for group in method.groups() for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@every_method
def test_the_state_dict_is_all_the_state_there_is(name):
    method, other = trained(name), build(name, seed=1)
    batch = views(name, 3)
    assert not torch.equal(other(batch, CLOCK).loss, method(batch, CLOCK).loss)
    other.load_state_dict(copy(method.state_dict()))
    steps = [m(batch, CLOCK) for m in (method, other)]
    assert torch.equal(steps[0].loss, steps[1].loss)
    for m, step in zip((method, other), steps, strict=True):
        m.after_step(step, CLOCK)
    found = other.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in method.state_dict().items())
    # Buffers that are not saved would be state that a restart loses.
    assert {key for key, _ in method.named_buffers()} <= method.state_dict().keys()


@every_method
def test_labels_are_unread_unless_declared(name):
    class Sealed:
        views = views(name).views

        @property
        def labels(self):
            raise AssertionError("labels were read")

    method = build(name)
    if method.uses_labels:
        with pytest.raises(AssertionError, match="labels were read"):
            method(Sealed(), CLOCK)
    else:
        expected = method(views(name), CLOCK).loss
        assert torch.equal(method(Sealed(), CLOCK).loss, expected)


def finish(name: str, chosen: str, stop: int | None, total: int = 10, seed: int = 0):
    """Tensors of method and optimizer after `total` steps, with a restart at `stop`."""
    method = build(name, dropout=0.2)
    optimizer = optim.build(OPTIMIZERS[chosen], method)
    ticks = train(plan(name, total, seed), method, optimizer)
    for tick in ticks:
        if tick.step == stop:
            break
    ticks.close()
    if stop is not None:
        state, moments = copy(method.state_dict()), copy(optim.tensors(optimizer, method))
        method = build(name, seed=9, dropout=0.2)
        optimizer = optim.build(OPTIMIZERS[chosen], method)
        method.load_state_dict(state)
        optim.restore(optimizer, method, moments)
        torch.manual_seed(123)  # the global generator is no part of the state
        steps = [tick.step for tick in train(plan(name, total, seed), method, optimizer, stop)]
        assert steps == list(range(stop + 1, total + 1))
    return copy(method.state_dict()), copy(optim.tensors(optimizer, method))


@every_method
@pytest.mark.parametrize("chosen", OPTIMIZERS)
def test_a_run_that_stops_in_the_middle_of_an_epoch_ends_in_the_same_bits(name, chosen):
    whole, resumed = finish(name, chosen, None), finish(name, chosen, stop=6)
    for one, two in zip(whole, resumed, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) for key, value in one.items())
    control, _ = finish(name, chosen, None, seed=1)
    weights = [key for key in whole[0] if key.endswith("weight") and "layers.0" in key]
    assert weights
    assert not any(torch.equal(control[key], whole[0][key]) for key in weights)


@every_method
def test_a_step_leaves_nothing_for_the_collector_of_cycles(name):
    """Which the command line therefore calls seldom: a batch in a cycle would stay for long."""
    method = build(name)
    ticks = train(plan(name, 10), method, optim.build(OPTIMIZERS["sgd"], method))
    next(ticks)
    gc.collect()
    gc.disable()
    try:
        assert [next(ticks).step for _ in range(3)] == [2, 3, 4]
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [type(each) for each in gc.garbage if isinstance(each, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found


CARD = {
    *("Source", "Differs", "Year", "Negatives", "Labels", "Views", "State"),
    "Against collapse",
}


@every_method
def test_a_method_is_documented_configured_and_final(name):
    module = importlib.import_module(f"clctl.methods.{name}")
    settings = module.Config()
    assert settings.name == name
    method = build(name)
    said = card(known("clctl.methods")[name])
    assert set(said) <= CARD
    assert CARD - set(said) <= {"Differs"}
    assert (said["Labels"] == "no") == (not settings.supervised and name != "triplet")
    assert said["Views"].startswith(str(min(settings.least, 2)))
    state = {key for key, _ in method.named_buffers()} - statistics(method)
    kept = {"teacher"} if hasattr(method, "teacher") else set()
    kept |= {"queue" if "queue" in key else key for key in state}
    assert {word for word in said["State"].split(", ") if word != "none"} == kept
    assert type(method).__bases__ == (Method,)
    assert isinstance(method.get_submodule(method.evaluated), nn.Module)
    chance = method.chance(64)
    assert chance is None or chance > 0


@every_method
def test_the_packaged_recipe_of_a_method_runs(name):
    recipe = read(find(name))
    assert recipe.method.name == name
    with seeded("recipe", name):
        encoder = recipe.encoder.build(recipe.views.size)
        method = recipe.method.build(encoder, Scale(recipe.train.batch_size, 1437))
        sizes = recipe.views.sizes
        images = torch.randn(16, 3, max(sizes), max(sizes))
    before = copy(method.state_dict())
    steps = replace(
        plan(name, 2, lr=optim.peak(recipe.optimizer, recipe.train.batch_size)),
        batches=lambda start: iter([images] * 2),
        views=lambda x, step: toy.views(0, step, x, sizes=sizes),
    )
    ticks = [tick.fetch() for tick in train(steps, method, optim.build(recipe.optimizer, method))]
    assert ticks[0]["loss"] != ticks[1]["loss"]
    after = method.state_dict()
    assert not all(torch.equal(before[key], after[key]) for key in before)


def curve(name: str) -> dict[str, list[float]]:
    """Loss and spread of twelve steps on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        method = build(name)
        ticks = train(
            plan(name, 12, lr=RATES.get(name, 0.05)), method, optim.build(OPTIMIZERS["sgd"], method)
        )
        found = [tick.fetch() for tick in ticks]
    finally:
        torch.set_num_threads(threads)
    return {key: [record[key] for record in found] for key in ("loss", "spread")}


@every_method
def test_a_short_run_keeps_its_golden_curve(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    found = curve(name)
    for key, values in golden.items():
        assert found[key] == pytest.approx(values, rel=1e-3), key
    low, high = min(golden["loss"]), max(golden["loss"])
    assert high - low > 0.005 * abs(low)  # or there is nothing to keep


if __name__ == "__main__":
    for method_name in known("clctl.methods"):
        text = json.dumps(curve(method_name), indent=1) + "\n"
        (GOLDEN / f"{method_name}.json").write_text(text, "utf-8")
