"""The loop: what a tick says, what reaches the method and the optimizer, and when it refuses."""

import math
from dataclasses import replace

import pytest
import torch
import toy
from torch import nn
from torch.optim import SGD

from clctl import optim
from clctl.console import Exit, Problem
from clctl.engine import train
from clctl.method import Batch, Method, Step
from clctl.recipe import sections
from clctl.rng import seed_of, seeded


class Recorder(Method):
    """Notes what reaches it; the loss is what `losses` says for the step."""

    def __init__(self, losses: dict[int, float] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.bias = nn.Parameter(torch.ones(2))
        self.losses, self.calls = losses or {}, []

    def groups(self):
        scheduled, fixed = super().groups()
        return [scheduled, {**fixed, "scheduled": False}]

    def forward(self, batch, clock):
        self.calls.append(("forward", clock.step, batch.labels, torch.rand(()).item()))
        value = self.losses.get(clock.step, 1.0)
        loss = (self.weight.sum() + self.bias.sum()) * value
        return Step(loss, {}, {"half": loss.detach() / 2}, {"keys": loss.detach()})

    def before_step(self, clock):
        assert self.weight.grad is not None
        self.calls.append(("before", clock.step, self.weight.grad.clone(), None))

    def after_step(self, step, clock):
        assert not torch.is_grad_enabled()
        self.calls.append(("after", clock.step, step.carry["keys"], self.weight.detach().clone()))


def run(method, start=0, total=6, **changes):
    plan = replace(toy.plan(total), lr=lambda clock: 0.1 / (clock.step + 1), **changes)
    optimizer = SGD(method.groups(), lr=0.0)
    return optimizer, train(plan, method, optimizer, start)


def test_ticks_carry_steps_and_rates():
    _, ticks = run(Recorder(), start=2)
    found = [(tick.step, tick.lr, tick.fetch()) for tick in ticks]
    assert [step for step, _, _ in found] == [3, 4, 5, 6]
    assert [lr for _, lr, _ in found] == pytest.approx([0.1 / 3, 0.1 / 4, 0.1 / 5, 0.1 / 6])
    for step, lr, record in found:
        assert list(record) == ["step", "lr", "loss", "half"]
        assert (record["step"], record["lr"]) == (step, lr)
        assert record["half"] == record["loss"] / 2
    assert found[0][2]["loss"] == 6.0


def test_scheduled_groups_follow_the_rate_and_others_get_the_peak():
    method = Recorder()
    optimizer, ticks = run(method, total=2)
    for tick in ticks:
        assert [group["lr"] for group in optimizer.param_groups] == [tick.lr, 0.1]
    torch.testing.assert_close(method.weight.detach(), torch.full((2, 2), 1 - 0.1 - 0.05))
    torch.testing.assert_close(method.bias.detach(), torch.full((2,), 1 - 0.1 - 0.1))


def test_the_order_of_a_step_and_its_clock():
    method = Recorder()
    _, ticks = run(method, start=3, total=5)
    assert [tick.step for tick in ticks] == [4, 5]
    names = ["forward", "before", "after"]
    assert [call[:2] for call in method.calls] == [
        (name, step) for step in (3, 4) for name in names
    ]
    _, before, after, *_ = method.calls
    assert torch.equal(before[2], torch.ones(2, 2))  # the gradient of this step alone
    torch.testing.assert_close(after[3], torch.full((2, 2), 1 - 0.1 / 4))  # it has stepped
    assert after[2] == 6.0


def test_gradients_are_gone_after_a_tick():
    method = Recorder()
    _, ticks = run(method)
    assert [p.grad for _ in ticks for p in method.parameters()] == [None] * 12


def test_batches_are_asked_for_once_from_the_start():
    asked = []

    def batches(start):
        asked.append(start)
        return toy.batches(0, start)

    _, ticks = run(Recorder(), start=4, batches=batches)
    assert asked == []
    assert len(list(ticks)) == 2
    assert asked == [4]


def test_views_are_made_of_the_steps_own_batch():
    seen = []

    def views(raw, step):
        seen.append((raw, step))
        return toy.views(0, step, raw)

    _, ticks = run(Recorder(), start=3, views=views)
    assert len(list(ticks)) == 3
    expected = toy.batches(0, 3)
    assert [step for _, step in seen] == [3, 4, 5]
    assert all(torch.equal(raw, next(expected)) for raw, _ in seen)


@pytest.mark.parametrize("wanted", [False, True])
def test_labels_reach_only_methods_that_declare_them(monkeypatch, wanted):
    monkeypatch.setattr(Recorder, "uses_labels", wanted)
    method = Recorder()
    _, ticks = run(method, total=1)
    assert len(list(ticks)) == 1
    labels = method.calls[0][2]
    assert torch.equal(labels, torch.arange(toy.BATCH) // 4) if wanted else labels is None


def test_what_a_method_draws_depends_on_seed_and_step_alone():
    draws = {}
    for start, seed in ((0, 0), (3, 0), (0, 1)):
        method = Recorder()
        torch.manual_seed(start)
        _, ticks = run(method, start, seed=seed)
        assert len(list(ticks)) == 6 - start
        draws[start, seed] = [call[3] for call in method.calls if call[0] == "forward"]
    assert draws[0, 0][3:] == draws[3, 0]
    assert len({*draws[0, 0], *draws[0, 1]}) == 12
    with seeded(0, "model", 0, 0):
        assert draws[0, 0][0] == torch.rand(()).item()
    assert seed_of(0, "model", 0, 0) != seed_of(0, "model", 0, 1)  # another rank draws other masks


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_told_at_the_next_fetch(value):
    _, ticks = run(Recorder({2: value}))
    steps = [next(ticks) for _ in range(5)]
    assert steps[1].fetch()["step"] == 2
    for tick in steps[2:]:
        with pytest.raises(Problem, match=f"not finite at or before step {tick.step}") as caught:
            tick.fetch()
        assert (caught.value.exit, caught.value.code) == (Exit.NUMERICS, "train.not-finite")


def test_a_loss_that_was_not_finite_once_is_told_though_later_ones_are():
    class Shy(Recorder):
        def forward(self, batch, clock):
            loss = self.weight.sum() * 0 + (math.nan if clock.step == 1 else 1.0)
            return Step(loss, {}, {}, {"keys": torch.ones(())})

        def before_step(self, clock):
            self.weight.grad = torch.zeros_like(self.weight)

    _, ticks = run(Shy())
    *_, last = ticks
    assert last.out.loss.item() == 1.0
    with pytest.raises(Problem, match="not finite"):
        last.fetch()


def test_bf16_on_a_processor_gives_a_float32_loss_and_float32_weights():
    found = {}
    for amp in (None, torch.bfloat16):
        kinds = []
        with seeded("engine", "bf16"):
            method = toy.method("simclr")
        method.encoder.layers[0].register_forward_hook(
            lambda m, i, out, k=kinds: k.append(out.dtype)
        )
        optimizer = optim.build(sections.SGD(lr=0.1), method)
        ticks = list(train(replace(toy.plan(4, lr=0.01), amp=amp), method, optimizer))
        assert set(kinds) == {amp or torch.float32}
        assert {tick.out.loss.dtype for tick in ticks} == {torch.float32}
        assert {p.dtype for p in method.parameters()} == {torch.float32}
        found[amp] = [tick.fetch()["loss"] for tick in ticks]
    assert found[torch.bfloat16] == pytest.approx(found[None], rel=0.02)
    assert found[torch.bfloat16] != found[None]


def test_the_method_is_put_into_training_mode():
    method = Recorder()
    method.eval()
    _, ticks = run(method, total=1, views=lambda raw, step: Batch((raw, raw)))
    assert len(list(ticks)) == 1
    assert method.training


def test_weight_decay_follows_its_own_schedule_where_there_is_one():
    schedule = sections.Schedule(weight_decay=0.4)
    decay = optim.decay(sections.AdamW(lr=0.1, weight_decay=0.04), schedule)
    method = Recorder()
    plan = replace(toy.plan(4), decay=decay)
    optimizer = SGD([{**g, "weight_decay": 0.0} for g in method.groups()], lr=0.0)
    found = []
    for _ in train(plan, method, optimizer):
        found.append([group["weight_decay"] for group in optimizer.param_groups])
    half = [0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert found == [[pytest.approx(value), 0.0] for value in half]
    assert optim.decay(sections.SGD(lr=0.1), sections.Schedule()) is None


def test_gradients_are_cut_to_the_norm_of_the_recipe():
    method = Recorder()
    start = torch.cat([p.detach().flatten() for p in method.parameters()])
    plan = replace(toy.plan(1), lr=lambda clock: 1.0, peak=1.0, clip_norm=0.5)
    assert len(list(train(plan, method, SGD(method.groups(), lr=0.0)))) == 1
    moved = torch.cat([p.detach().flatten() for p in method.parameters()]) - start
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-5)
