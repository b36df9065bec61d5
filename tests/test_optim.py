"""Optimizers against plain loops, the learning rate against its definition, state by name."""

import math

import pytest
import torch
from torch import Tensor, nn

from clctl import optim
from clctl.method import Clock, Method
from clctl.recipe import sections
from clctl.rng import generator, seeded

CONFIGS = {
    "lars": sections.LARS(lr=0.5, weight_decay=1e-2, eta=0.02),
    "lars-clip": sections.LARS(lr=0.5, weight_decay=1e-2, eta=0.02, clip=True),
    "sgd": sections.SGD(lr=0.1, nesterov=True),
    "sgd-plain": sections.SGD(lr=0.1, momentum=0.0),
    "adamw": sections.AdamW(lr=0.01),
}


class Small(Method):
    """A few parameters of every kind; the frozen one is not for any optimizer."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        with seeded("optim", seed):
            self.first = nn.Linear(3, 4, dtype=dtype)
            self.norm = nn.BatchNorm1d(4, dtype=dtype)
            self.second = nn.Linear(4, 2, dtype=dtype)
            self.nothing = nn.Parameter(torch.zeros(2, 2, dtype=dtype))
            self.teacher = nn.Linear(3, 4, dtype=dtype).requires_grad_(False)

    def point(self, step: int) -> None:
        """Gradients that depend on the step and on the weights."""
        for i, (name, p) in enumerate(self.trained().items()):
            noise = torch.randn(p.shape, generator=generator("grad", step, i), dtype=torch.float64)
            p.grad = noise.to(p.dtype) + 0.3 * p.detach()
            if (name, step % 3) == ("second.weight", 1):
                p.grad = torch.zeros_like(p)

    def trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def go(method: Small, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.3 / (step + 1)
        method.point(step)
        optimizer.step()
        optimizer.zero_grad()


def norm(values: list[float]) -> float:
    return math.sqrt(sum(v * v for v in values))


@pytest.mark.parametrize("eta", [0.02, 5.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [False, True])
def test_lars_equals_plain_loops(clip, decay, momentum, eta):
    config = sections.LARS(lr=1.0, momentum=momentum, weight_decay=decay, eta=eta, clip=clip)
    method = Small()
    optimizer = optim.build(config, method)
    weights = {name: p.detach().flatten().tolist() for name, p in method.trained().items()}
    speeds = {name: [0.0] * len(w) for name, w in weights.items()}
    for step in range(10):
        lr = 0.3 / (step + 1)
        method.point(step)
        for name, p in method.trained().items():
            assert p.grad is not None
            w, g, local = weights[name], p.grad.flatten().tolist(), 1.0
            if p.dim() > 1:
                if norm(w) > 0 and norm(g) > 0:
                    local = eta * norm(w) / (norm(g) + decay * norm(w))
                    local = min(local / lr, 1.0) if clip else local
                g = [local * (x + decay * y) for x, y in zip(g, w, strict=True)]
            speeds[name] = [momentum * v + x for v, x in zip(speeds[name], g, strict=True)]
            weights[name] = [y - lr * v for y, v in zip(w, speeds[name], strict=True)]
        go(method, optimizer, range(step, step + 1))
    for name, p in method.trained().items():
        expected = torch.tensor(weights[name], dtype=torch.float64).reshape(p.shape)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-11, atol=1e-13)


def test_lars_starts_to_move_a_tensor_of_zeros_by_its_plain_gradient():
    method = Small()
    optimizer = optim.build(CONFIGS["lars"], method)
    method.point(0)
    assert method.nothing.grad is not None
    expected = -0.3 * method.nothing.grad
    go(method, optimizer, range(1))
    torch.testing.assert_close(method.nothing.detach(), expected)


def test_lars_at_rate_zero_moves_nothing():
    method = Small()
    optimizer = optim.build(CONFIGS["lars-clip"], method)
    before = {name: p.detach().clone() for name, p in method.trained().items()}
    method.point(0)
    optimizer.step()  # the rate is 0 until it is set
    assert all(torch.equal(p, before[name]) for name, p in method.trained().items())


def test_lars_takes_no_closure():
    with pytest.raises(ValueError, match="closure"):
        optim.build(CONFIGS["lars"], Small()).step(lambda: 0.0)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_only_matrices_decay(name):
    method = Small()
    optimizer = optim.build(CONFIGS[name], method)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    for p in method.trained().values():
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    decay = CONFIGS[name].weight_decay
    for key, p in method.named_parameters():
        # Nesterov's momentum adds the decay's gradient of 0.9 once more in the first step.
        share = 0.1 * decay * (1.9 if name == "sgd" else 1.0)
        expected = before[key] * (1 - share) if key in _matrices(method) else before[key]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


def _matrices(method: Small) -> set[str]:
    return {name for name, p in method.trained().items() if p.dim() > 1}


@pytest.mark.parametrize("name", CONFIGS)
def test_groups_hold_every_trained_parameter_once(name):
    method = Small()
    groups = optim.build(CONFIGS[name], method).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.trained().values())
    assert [group["scheduled"] for group in groups] == [True, True]


@pytest.mark.parametrize("name", CONFIGS)
def test_five_steps_after_restoring_equal_ten_in_a_row(name):
    whole, half, rest = Small(dtype=torch.float32), Small(dtype=torch.float32), Small(1)
    rest = rest.float()
    straight = optim.build(CONFIGS[name], whole)
    go(whole, straight, range(10))
    stopped = optim.build(CONFIGS[name], half)
    go(half, stopped, range(5))
    saved = {key: value.clone() for key, value in optim.tensors(stopped, half).items()}
    rest.load_state_dict(half.state_dict())
    continued = optim.build(CONFIGS[name], rest)
    optim.restore(continued, rest, saved)
    assert optim.tensors(continued, rest).keys() == saved.keys()
    go(rest, continued, range(5, 10))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key
    expected, found = optim.tensors(straight, whole), optim.tensors(continued, rest)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    if name != "sgd-plain":  # which has nothing to restore
        fresh = optim.build(CONFIGS[name], half)
        go(half, fresh, range(5, 10))
        assert not torch.equal(half.first.weight, whole.first.weight)


def test_state_is_named_by_slot_and_parameter():
    method = Small()
    optimizer = optim.build(CONFIGS["adamw"], method)
    assert optim.tensors(optimizer, method) == {}
    go(method, optimizer, range(1))
    slots = ("exp_avg", "exp_avg_sq", "step")
    assert optim.tensors(optimizer, method).keys() == {
        f"{slot}.{name}" for slot in slots for name in method.trained()
    }


def test_state_of_an_unknown_or_frozen_parameter_is_refused():
    method = Small()
    for name in ("third.weight", "teacher.weight"):
        with pytest.raises(KeyError, match=name):
            optim.restore(
                optim.build(CONFIGS["sgd"], method),
                method,
                {f"momentum_buffer.{name}": torch.zeros(4, 3)},
            )


def test_state_lives_with_its_parameter_and_counts_stay_where_they_are():
    class Scale(Method):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros((), device="meta"))

    method = Scale()
    optimizer = optim.build(CONFIGS["adamw"], method)
    saved = {"exp_avg.scale": torch.ones(()), "step.scale": torch.tensor(3.0)}
    optim.restore(optimizer, method, saved)
    state = optimizer.state[method.scale]
    assert state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == "cpu"
    assert state["step"] == 3


def factors(total: int, warmup: float = 0.1, final: float = 0.0) -> list[float]:
    schedule = sections.Schedule(warmup=warmup, final=final)
    return [optim.factor(schedule, Clock(step, total, 1)) for step in range(total)]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 33, 400])
@pytest.mark.parametrize(("warmup", "final"), [(0, 0), (0.05, 0.2), (0.1, 0), (0.5, 1), (0.99, 0)])
def test_the_rate_rises_over_the_warmup_and_then_falls(total, warmup, final):
    rates = factors(total, warmup, final)
    rising = math.ceil(warmup * total)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:rising] == sorted(set(rates[:rising]))
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    assert all(rate >= final for rate in rates[rising:])
    if rising < total:
        gap = (rising - warmup * total) / max(total * (1 - warmup), 1)
        assert rates[rising] == pytest.approx(
            final + (1 - final) * math.cos(math.pi * gap / 2) ** 2, abs=1e-12
        )


def test_the_rate_of_a_run_of_a_thousand_steps():
    rates = factors(1000, warmup=0.1, final=0.1)
    assert rates[0] == pytest.approx(1 / 101)
    assert rates[49] == pytest.approx(50 / 101)
    assert rates[100] == 1
    assert rates[550] == pytest.approx(0.55)
    assert rates[999] == pytest.approx(0.1, abs=1e-5)
    assert factors(1) == [pytest.approx(1 / 1.1)]
    assert factors(1, warmup=0) == [1.0]


def test_a_short_run_has_the_schedule_of_a_long_one():
    short, long = factors(100), factors(10_000)
    assert max(abs(short[i] - long[100 * i]) for i in range(10, 100)) < 1e-12
    assert max(abs(short[i] - long[100 * i]) for i in range(10)) < 0.1


def test_the_peak_is_per_256_images():
    assert optim.peak(sections.SGD(lr=0.3), 64) == pytest.approx(0.075)
    assert optim.peak(sections.LARS(lr=0.3), 4096) == pytest.approx(4.8)
