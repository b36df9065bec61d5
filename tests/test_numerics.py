"""Numbers that are not finite: never saved, found by replay, and left out where that was asked."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from itertools import islice

import pytest
import torch
import toy
from torch.optim import SGD

from clctl import optim
from clctl.commands import _numerics
from clctl.commands._training import Trainer
from clctl.data.feed import Feed
from clctl.engine import NotFinite, Tick, finite, train
from clctl.method import Step
from clctl.methods._in_batch import InBatch
from clctl.recipe import sections
from clctl.store import tensors
from clctl.store.run import Run

SETTINGS = {
    "train.epochs": 1,
    "train.precision": "fp32",
    "encoder.width": 8,
    "checkpoint.every_steps": 5,
    "checkpoint.keep": 9,
    "report.log_every": 4,
    "guard.action": "warn",
}
TIMES = ("time", "images_per_second", "waiting")
WHOLE = InBatch.forward


def arguments(out, *more, **changes):
    sets = [f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    return ["pretrain", "simclr", *(w for s in sets for w in ("--set", s)), "--out", out, *more]


def spoil(monkeypatch, kind, *steps):
    """Make the steps of the log `steps` go wrong; counts how often one was taken."""
    taken = []

    def forward(self, batch, clock):
        out = WHOLE(self, batch, clock)
        if clock.step + 1 not in steps:
            return out
        taken.append(clock.step + 1)
        p = self.projector[0].weight
        # A root at 0 has an infinite slope there, and 0 times that is nan.
        extra = {"loss": out.loss * math.nan, "gradient": out.loss + (p * 0).sum().sqrt()}
        if kind == "state":
            self.encoder.layer1.bn1.running_var.data.fill_(math.inf)
        return replace(out, loss=extra.get(kind, out.loss))

    monkeypatch.setattr(InBatch, "forward", forward)
    return taken


def digests(run, step=22):
    folder = run / "checkpoints" / f"step-{step:08d}"
    names = ("model.safetensors", "state.safetensors")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def log(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def saved(run):
    found = sorted(run.glob("checkpoints/step-*"))
    for folder in found:
        for part in ("model", "state"):
            for value in tensors.read(folder / f"{part}.safetensors")[0].values():
                assert not value.is_floating_point() or value.isfinite().all()
    return [int(folder.name.removeprefix("step-")) for folder in found]


@pytest.mark.parametrize("where", ["values", "flag"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_finite_reads_the_flag_and_every_floating_tensor(where, value):
    tick = Tick(1, 0.1, None, torch.tensor(where == "values"), 0.0)
    good = [torch.ones(3), torch.empty(0), torch.tensor(2), torch.full((2,), 3e38)]
    assert finite(tick, good) == (where == "values")
    assert not finite(tick, [*good, torch.tensor([[1.0, value]]), torch.ones(1).bfloat16()])


def test_a_skipped_step_is_counted_and_not_taken():
    def weights(plan):
        method = toy.method("simclr")
        optimizer = optim.build(sections.SGD(lr=0.1), method)
        ticks = list(train(plan, method, optimizer))
        return ticks, method.state_dict()

    seen = []
    base = replace(toy.plan(6), lr=lambda clock: seen.append(clock.step) or 0.1 / (clock.step + 1))
    ticks, left_out = weights(replace(base, skip=frozenset({2})))
    assert [(t.step, t.out is None) for t in ticks] == [(i, i == 3) for i in range(1, 7)]
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5]
    assert ticks[2].fetch() == {"step": 3, "lr": pytest.approx(0.1 / 3)}
    # By hand: the steps before it, then those after, with one and the same optimizer.
    method = toy.method("simclr")
    optimizer = optim.build(sections.SGD(lr=0.1), method)
    assert len(list(islice(train(base, method, optimizer), 2))) == 2
    assert any(not torch.equal(left_out[k], v) for k, v in method.state_dict().items())
    assert len(list(train(base, method, optimizer, start=3))) == 3
    assert all(torch.equal(left_out[k], v) for k, v in method.state_dict().items())


def test_the_first_gradient_of_backward_is_named_before_clipping_spoils_all(monkeypatch):
    method = toy.method("simclr")
    with _numerics._gradients(method) as seen:
        out = Step(
            (method.projector[0].weight * 0).sum().sqrt() + method.encoder.layers[0].weight.sum()
        )
        out.loss.backward()
    assert list(seen) == ["projector.0.weight"]
    assert seen["projector.0.weight"].isnan().all()
    SGD(method.parameters(), lr=0.1).zero_grad()
    method.encoder.layers[0].weight.sum().backward()  # hooks are gone
    assert list(seen) == ["projector.0.weight"]


@pytest.mark.parametrize(
    ("kind", "what", "tensor"),
    [
        ("loss", "loss", None),
        ("gradient", "gradient", "projector.0.weight"),
        ("state", "state", "encoder.layer1.bn1.running_var"),
    ],
)
def test_the_step_is_found_and_named_and_nothing_of_it_is_saved(
    kind, what, tensor, clctl, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    spoil(monkeypatch, kind, 13)
    answer = clctl(*arguments(run, "--json"))
    assert (answer.code, answer.document["code"]) == (7, "train.not-finite")
    assert "not finite at step 13" in answer.document["message"]
    assert saved(run) == [5, 10]
    found = json.loads((run / "not-finite.json").read_text())
    assert (found["schema"], found["step"]) == ("clctl/not-finite/1", 13)
    assert (found["what"], found["tensor"]) == (what, tensor)
    assert (found["loss"] is None) == (kind == "loss")
    assert found["checkpoint"] == "step-00000010"
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "failed: train.not-finite"
    # The images are those of that batch, told by an oracle that starts from the data.
    from clctl.data.open import load
    from clctl.recipe.read import find, read

    recipe = read(find("simclr"))
    split = load(recipe.data, 16, print, False).splits["train"]
    feed = Feed(split, 64, 0, torch.device("cpu"), uses_labels=False)
    assert found["ids"] == [split.ids[i] for i in feed.rows(12).tolist()]
    assert ", ".join(found["ids"][:5]) in answer.document["message"]


def test_before_any_checkpoint_it_goes_back_to_step_0(clctl, tmp_path, monkeypatch):
    taken = spoil(monkeypatch, "loss", 3)
    answer = clctl(*arguments(tmp_path / "run"))
    assert answer.code == 7
    assert "not finite at step 3: the loss is nan" in answer.err
    assert taken == [3, 3]  # once, and once more to find it
    assert saved(tmp_path / "run") == []
    assert json.loads((tmp_path / "run" / "not-finite.json").read_text())["checkpoint"] is None


def test_what_does_not_happen_again_is_said_to_be_the_machines(clctl, tmp_path, monkeypatch):
    steps = [13]
    spoil(monkeypatch, "loss", 13)
    broken = InBatch.forward

    def once(self, batch, clock):
        if clock.step + 1 == 13 and steps:
            steps.pop()
            return broken(self, batch, clock)
        return WHOLE(self, batch, clock)

    monkeypatch.setattr(InBatch, "forward", once)
    answer = clctl(*arguments(tmp_path / "run", "--json", "--on-nan", "rollback"))
    assert (answer.code, answer.document["code"]) == (7, "train.not-reproduced")
    assert "steps 11 to 15, taken again from step-00000010" in answer.document["message"]
    assert saved(tmp_path / "run") == [5, 10]
    assert clctl(*arguments(tmp_path / "run", "-q")).code == 0


def test_rollback_leaves_out_the_step_now_and_ever_after(clctl, tmp_path, monkeypatch):
    spoil(monkeypatch, "gradient", 13, 18)
    answer = clctl(*arguments(tmp_path / "a", "--json", "--on-nan", "rollback"))
    assert answer.code == 0, answer.err
    assert answer.document["skipped_steps"] == [13, 18]
    assert (answer.document["steps"], answer.document["resumed_from"]) == (22, 0)
    assert "going on from step 10 without it" in answer.err
    assert json.loads((tmp_path / "a" / "run.json").read_text())["skipped_steps"] == [13, 18]
    found = json.loads((tmp_path / "a" / "not-finite.json").read_text())
    assert [found["step"], *(d["step"] for d in found["earlier"])] == [18, 13]
    steps = [line["step"] for line in log(tmp_path / "a")]
    assert steps == [4, 8, 12, 16, 20, 22]

    # The oracle: a run in which nothing goes wrong, told from the start to skip these steps.
    monkeypatch.setattr(InBatch, "forward", WHOLE)
    plan = Trainer.plan.fget
    with monkeypatch.context() as patch:
        skipping = property(lambda self: replace(plan(self), skip=frozenset({12, 17})))
        patch.setattr(Trainer, "plan", skipping)
        assert clctl(*arguments(tmp_path / "b", "-q")).code == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert log(tmp_path / "a") == log(tmp_path / "b")

    # Killed before it could save again, then continued by a method that does nothing wrong.
    folders = {n: tmp_path / "a" / "checkpoints" / f"step-{n:08d}" for n in (10, 15, 20, 22)}
    kept = [
        json.loads((f / "manifest.json").read_text())["skipped_steps"] for f in folders.values()
    ]
    assert kept == [[], [13], [13, 18], [13, 18]]
    for step in (15, 20, 22):
        shutil.rmtree(folders[step])
    (tmp_path / "a" / "report.json").unlink()
    again = clctl(*arguments(tmp_path / "a", "--json"))
    assert again.code == 0, again.err
    assert (again.document["resumed_from"], again.document["skipped_steps"]) == (10, [13, 18])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert log(tmp_path / "a") == log(tmp_path / "b")


def test_the_last_step_can_be_left_out(clctl, tmp_path, monkeypatch):
    spoil(monkeypatch, "loss", 22)
    answer = clctl(*arguments(tmp_path / "run", "--json", "--on-nan", "rollback"))
    assert answer.code == 0, answer.err
    assert answer.document["skipped_steps"] == [22]
    assert saved(tmp_path / "run")[-1] == 22
    assert log(tmp_path / "run")[-1]["step"] == 20


def test_too_many_steps_are_no_matter_of_a_batch(clctl, tmp_path, monkeypatch):
    taken = spoil(monkeypatch, "loss", 7, 9, 11, 13)
    answer = clctl(*arguments(tmp_path / "run", "--on-nan", "rollback"))
    assert answer.code == 7
    assert "not finite at step 13" in answer.err
    assert "after 3 steps were skipped (7, 9, 11): it is not the batch" in answer.err
    assert sorted(set(taken)) == [7, 9, 11, 13]
    assert saved(tmp_path / "run") == [5, 10]


def test_a_rate_that_is_too_large_diverges_and_is_told(clctl, tmp_path):
    answer = clctl(*arguments(tmp_path / "run", **{"optimizer.lr": 1e30, "schedule.warmup": 0}))
    assert answer.code == 7
    assert "not finite at step 2: the loss is nan" in answer.err
    assert saved(tmp_path / "run") == []


def test_a_word_that_is_no_choice_is_refused_before_anything(clctl, tmp_path):
    answer = clctl(*arguments(tmp_path / "run", "--on-nan", "ignore", "--json"))
    assert (answer.code, answer.document["code"]) == (2, "usage.on-nan")
    assert not (tmp_path / "run").exists()


def test_not_finite_names_its_step():
    problem = NotFinite(7)
    assert (problem.step, problem.message) == (7, "the loss is not finite at or before step 7")


def test_after_a_rollback_ranks_read_the_log_that_the_first_took_back(clctl, tmp_path, monkeypatch):
    spoil(monkeypatch, "gradient", 13)
    done = []
    for where, name in ((Run, "rewind"), (_numerics, "wait"), (Trainer, "recall")):
        whole = getattr(where, name)

        def told(*args, own=whole, name=name):
            done.append(name)
            return own(*args)

        monkeypatch.setattr(where, name, told)
    assert clctl(*arguments(tmp_path / "run", "-q", "--on-nan", "rollback")).code == 0
    assert done[-3:] == ["rewind", "wait", "recall"]
