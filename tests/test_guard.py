"""The guard against collapse: what it reads, when it warns, when it stops, what it keeps."""

import math

import pytest
import torch

from clctl.commands._guard import SIGNS, Guard, readings
from clctl.console import Exit, Problem
from clctl.method import Step, watched
from clctl.recipe import sections
from clctl.rng import generator

FIRST = {"spread": 1.0, "feature_spread": 0.8, "feature_rank": 40.0, "std": 0.3}
HEALTHY = {
    **{**FIRST, "loss": 2.0, "loss_chance": 4.0, "loss_ideal": -1.0},
    **{"entropy": 0.8, "information": 0.2},
}
SICK = {
    "spread": {"spread": 0.05},
    "shrunk": {"spread": 0.3},
    "std": {"std": 0.05},
    "trivial": {"loss": -0.95, "feature_rank": 17.0},
    "features": {"feature_spread": 0.1},
    "rank": {"feature_rank": 2.0},
    "loss": {"loss": 4.01},
    "information": {"information": 0.01},
}


class Listener:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def guard(**settings) -> Guard:
    return Guard(sections.Guard(**settings), FIRST, armed=20, half=100, talk=Listener())


def record(step: int, **changes) -> dict:
    return {**HEALTHY, "step": step, **changes}


def rows(*key, n: int = 64, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("guard", *key))


def test_readings_of_features():
    h = rows("h", n=256) + 3.0
    found = readings(Step(torch.ones(()), watched(h, h)))
    around = h.double() - h.double().mean(dim=0)
    share = (around.norm(dim=1).square().sum() / h.double().norm(dim=1).square().sum()).sqrt()
    assert found["feature_spread"] == pytest.approx(share.item(), rel=1e-9)
    assert 14 < found["feature_rank"] <= 16
    line = rows("line", d=1) * torch.ones(1, 16)
    assert readings(Step(torch.ones(()), watched(line, line)))["feature_rank"] == pytest.approx(
        1, abs=1e-3
    )
    assert readings(Step(torch.ones(()))) == {}


@pytest.mark.parametrize(
    ("logits", "entropy", "information"),
    [
        (torch.zeros(8, 8), 1, 0),  # uniform: nothing is predicted
        (50 * torch.eye(8)[[3] * 8], 0, 0),  # one entry for all images
        (50 * torch.eye(8), 0, 1),  # an entry of its own for each
    ],
)
def test_readings_of_predictions(logits, entropy, information):
    h, p = rows("h", n=8), torch.softmax(logits, dim=1)
    found = readings(Step(torch.ones(()), watched(h, h, predictions=p)))
    assert found["entropy"] == pytest.approx(entropy, abs=1e-6)
    assert found["information"] == pytest.approx(information, abs=1e-6)
    assert found["entropy_of_mean"] == pytest.approx(entropy + information, abs=1e-6)


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_that_lasts_warns_and_then_stops_the_run(name):
    watch = guard()
    watch.judge(record(30))
    for step in (40, 50):
        watch.judge(record(step, **SICK[name]))
    assert watch._talk.said == []
    watch.judge(record(60, **SICK[name]))
    (warning,) = watch._talk.said
    assert "looks like collapse at step 60" in warning
    watch.judge(record(70, **SICK[name]))
    with pytest.raises(Problem, match=r"collapsed at step 80.*since step 40") as caught:
        watch.judge(record(80, **SICK[name]))
    assert (caught.value.exit, caught.value.code) == (Exit.NUMERICS, "train.collapsed")


def test_a_sign_that_passes_is_forgiven():
    watch = guard(patience=3)
    for step in range(30, 200, 10):
        watch.judge(record(step, **(SICK["spread"] if step % 30 else {})))
    assert len(watch._talk.said) > 1


def test_nothing_is_judged_before_the_end_of_warmup():
    watch = guard(patience=2)
    for step in (1, 10, 20):
        watch.judge(record(step, **SICK["rank"]))
    watch.judge(record(30, **SICK["rank"]))
    with pytest.raises(Problem):
        watch.judge(record(40, **SICK["rank"]))


@pytest.mark.parametrize("name", ["shrunk", "loss", "information"])
def test_a_slow_start_is_no_collapse(name):
    watch = guard(patience=2)
    for step in range(30, 101, 10):
        watch.judge(record(step, **SICK[name]))
    with pytest.raises(Problem, match="9 lines of the log, since step 30"):
        watch.judge(record(110, **SICK[name]))


def test_a_short_run_is_not_judged_by_how_it_starts():
    watch = Guard(sections.Guard(), FIRST, armed=5, half=30, talk=Listener())
    for step in range(6, 66, 10):
        watch.judge(record(step, **SICK["shrunk"]))
    assert watch._talk.said == []


def test_warn_goes_on():
    watch = guard(patience=2, action="warn")
    for step in range(30, 100, 10):
        watch.judge(record(step, **SICK["spread"]))
    assert len(watch._talk.said) == 1


def test_two_signs_are_told_together_by_the_one_that_lasted():
    watch = guard(patience=2)
    watch.judge(record(30, **SICK["std"]))
    with pytest.raises(Problem) as caught:
        watch.judge(record(40, **SICK["std"], **SICK["rank"]))
    assert "shrink to nothing" in caught.value.message
    assert "directions" not in caught.value.message


def test_the_last_checkpoint_from_before_is_named_and_kept():
    watch = guard(patience=4)
    assert watch.good_save(10) == 10
    watch.judge(record(30))
    assert watch.good_save(30) == 30
    watch.judge(record(40, **SICK["spread"]))
    assert [watch.good_save(40), watch.good_save(45)] == [30, 30]
    watch.judge(record(50))
    assert watch.good_save(55) == 55
    for step in (60, 70, 80):
        watch.judge(record(step, **SICK["spread"]))
        assert watch.good_save(step) == 55
    with pytest.raises(Problem) as caught:
        watch.judge(record(90, **SICK["spread"]))
    assert "step-00000055 is the last from before" in (caught.value.suggestion or "")


def test_a_run_that_continues_is_judged_as_if_it_had_not_stopped():
    log = [record(30), record(40), *(record(s, **SICK["rank"]) for s in (50, 60, 70))]
    watch = guard(patience=4)
    watch.recall(log, saves=[70, 44, 22])
    assert watch._talk.said == []
    assert watch.good_save(75) == 44
    with pytest.raises(Problem, match="since step 50"):
        watch.judge(record(80, **SICK["rank"]))


def test_thresholds_follow_step_0():
    watch = guard(patience=1)
    watch.first = {"spread": 0.06, "feature_spread": 0.02, "feature_rank": 6.0, "std": 0.3}
    low = {"spread": 0.05, "feature_spread": 0.01, "feature_rank": 2.0}
    watch.judge(record(30, **low))
    with pytest.raises(Problem):
        watch.judge(record(40, **{**low, "spread": 0.02}))
    assert math.isclose(watch.first["spread"], 0.06)
