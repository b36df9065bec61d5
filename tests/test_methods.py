"""The contract of every module in clctl/methods, and what is particular to each.

Run this file as a script to write the golden curves anew.
"""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
import toy
from torch import nn

from clctl import optim
from clctl.engine import train
from clctl.losses import byol, nt_xent
from clctl.method import Batch, Clock, Method
from clctl.recipe import sections
from clctl.recipe.plugins import config, known
from clctl.recipe.read import find, read
from clctl.rng import seeded

SMALL = {
    "byol": {"projector": (32, 16), "predictor": 32, "momentum": 0.9},
    "simclr": {"projector": (32, 16), "temperature": 0.2},
}
OPTIMIZERS = {
    "lars": sections.LARS(lr=1.0, eta=0.1),
    "sgd": sections.SGD(lr=0.1),
    "adamw": sections.AdamW(lr=0.01),
}
GOLDEN = Path(__file__).parent / "golden"
CLOCK = Clock(5, 20, toy.PER_EPOCH)

every_method = pytest.mark.parametrize("name", known("clctl.methods"))


def build(name: str, seed: int = 0, dropout: float = 0.0, **changes) -> Method:
    with seeded("methods", seed):
        settings = config("clctl.methods", name)(**{**SMALL.get(name, {}), **changes})
        return settings.build(toy.Toy(dropout))


def views(name: str, step: int = 0) -> Batch:
    images = next(toy.batches(0, step))
    return toy.views(0, step, images, count=config("clctl.methods", name).views)


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
    plan = toy.plan(10, count=config("clctl.methods", name).views)
    ticks = train(plan, method, optim.build(OPTIMIZERS["sgd"], method))
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
    assert 0.3 < out.metrics["spread"] < 1.2
    assert not any(t.requires_grad for t in [*out.metrics.values(), *out.carry.values()])
    assert all(value.dim() == 0 for value in out.metrics.values())


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
    settings = {"total": total, "seed": seed, "count": config("clctl.methods", name).views}
    method = build(name, dropout=0.2)
    optimizer = optim.build(OPTIMIZERS[chosen], method)
    ticks = train(toy.plan(**settings), method, optimizer)
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
        steps = [tick.step for tick in train(toy.plan(**settings), method, optimizer, stop)]
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
def test_a_method_is_documented_configured_and_final(name):
    module = importlib.import_module(f"clctl.methods.{name}")
    assert "Source: " in (module.__doc__ or "")
    assert module.Config().name == name
    assert module.Config.views >= 1
    method = build(name)
    assert type(method).__bases__ == (Method,)
    assert isinstance(method.get_submodule(method.evaluated), nn.Module)
    chance = method.chance(64)
    assert chance is None or chance > 0


@every_method
def test_the_packaged_recipe_of_a_method_runs(name):
    recipe = read(find(name))
    assert recipe.method.name == name
    assert recipe.views.count == recipe.method.views
    size = recipe.views.size
    with seeded("recipe", name):
        method = recipe.method.build(recipe.encoder.build(size))
        images = torch.randn(16, 3, size, size)
    before = copy(method.state_dict())
    plan = toy.plan(2, lr=optim.peak(recipe.optimizer, recipe.train.batch_size))
    plan = type(plan)(
        **{
            **vars(plan),
            "batches": lambda start: iter([images] * 2),
            "views": lambda x, step: toy.views(0, step, x, count=recipe.views.count),
        }
    )
    ticks = [tick.fetch() for tick in train(plan, method, optim.build(recipe.optimizer, method))]
    assert ticks[0]["loss"] != ticks[1]["loss"]
    after = method.state_dict()
    assert not all(torch.equal(before[key], after[key]) for key in before)


def curve(name: str) -> dict[str, list[float]]:
    """Loss and spread of twelve steps on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        method = build(name)
        plan = toy.plan(12, lr=0.05, count=config("clctl.methods", name).views)
        ticks = train(plan, method, optim.build(OPTIMIZERS["sgd"], method))
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
    assert abs(golden["loss"][-1] / golden["loss"][0] - 1) > 0.05  # or there is nothing to keep


def test_simclr_is_nt_xent_of_the_projections():
    method, batch = build("simclr"), views("simclr")
    a, b = (method.projector(method.encoder(view)) for view in batch.views)
    assert torch.equal(method(batch, CLOCK).loss, nt_xent(a, b, 0.2))


def test_simclr_that_knows_nothing_is_at_its_chance():
    method, batch = build("simclr"), views("simclr")
    nn.init.zeros_(method.projector[-1].weight)
    chance = method.chance(toy.BATCH)
    assert chance == math.log(2 * toy.BATCH - 1)
    assert method(batch, CLOCK).loss.item() == pytest.approx(chance, abs=1e-5)


def test_byol_predicts_the_teachers_projection_of_the_other_view():
    method, batch = trained("byol"), views("byol")
    a, b = batch.views
    online = [method.predictor(method.projector(method.encoder(view))) for view in (a, b)]
    target = [method.teacher(view) for view in (b, a)]
    expected = sum(byol(p, t) for p, t in zip(online, target, strict=True)) / 2
    assert torch.equal(method(batch, CLOCK).loss, expected)
    assert torch.equal(method(Batch((b, a)), CLOCK).loss, expected)


def test_byols_teacher_starts_equal_and_follows_the_schedule():
    method, batch = build("byol"), views("byol")
    followed = [*method.encoder.parameters(), *method.projector.parameters()]
    teacher = list(method.teacher.parameters())
    assert all(torch.equal(t, p) for t, p in zip(teacher, followed, strict=True))
    with torch.no_grad():
        for p in followed:
            p.add_(1)
    for step in (0, 5, 19):
        old = [t.clone() for t in teacher]
        rate = 1 - (1 - 0.9) * (math.cos(math.pi * step / 20) + 1) / 2
        clock = Clock(step, 20, toy.PER_EPOCH)
        method.after_step(method(batch, clock), clock)
        for t, was, p in zip(teacher, old, followed, strict=True):
            torch.testing.assert_close(t, rate * was + (1 - rate) * p.detach())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("predictor", "momentum", "healthy"),
    [(True, 0.9, True), (True, 0.0, True), (False, 0.9, False), (False, 0.0, False)],
)
def test_byol_collapses_without_its_predictor_only(seed, predictor, momentum, healthy):
    method = build("byol", seed, projector=(16,), momentum=momentum)
    if not predictor:
        method.predictor = nn.Identity()
    plan = toy.plan(40, seed, lr=2.0, noise=2.0)
    *_, last = train(plan, method, optim.build(sections.SGD(lr=1.0, weight_decay=0.0), method))
    spread = last.fetch()["spread"]
    assert spread > 0.5 if healthy else spread < 0.05


if __name__ == "__main__":
    for method_name in known("clctl.methods"):
        text = json.dumps(curve(method_name), indent=1) + "\n"
        (GOLDEN / f"{method_name}.json").write_text(text, "utf-8")
