"""The linear probe against scikit-learn, the gradient in float64, and what must not matter."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from clctl.evaluate import linear as linear_module
from clctl.evaluate import logistic
from clctl.evaluate.axes import fit_axes, turn
from clctl.evaluate.linear import PENALTIES, folds, linear
from clctl.evaluate.logistic import evaluate, minimise
from clctl.evaluate.subset import held_out
from clctl.rng import generator


def toy(n=240, classes=3, noise=1.5, key="train", d=8):
    """Features [n, d] around one centre per class, and labels."""
    centres = torch.randn(classes, d, generator=generator("centres", classes, d))
    y = torch.arange(n) % classes
    return centres[y] + noise * torch.randn(n, d, generator=generator(key, n, d)), y


def rectified(n, classes=10, d=64, tails=False):
    """Overlapping classes seen through a layer: no value below 0, variances by a power law."""
    draw = generator("rectified", n, d)
    scale = torch.arange(1, d + 1) ** -0.5
    y = torch.randint(classes, (n,), generator=draw)
    hidden = 0.5 * torch.randn(classes, d, generator=draw)[y] + torch.randn(n, d, generator=draw)
    x = torch.relu((hidden * scale) @ torch.randn(d, d, generator=draw))
    return (x * torch.exp(torch.randn(n, 1, generator=draw)) if tails else x), y


def digits():
    """Real pictures through a random layer: float32 [1797, 128], and a constant feature."""
    pictures, y = load_digits(return_X_y=True)
    layer = torch.randn(64, 128, generator=generator("layer"))
    x = torch.relu(torch.from_numpy(pictures).float() @ layer)
    x[:, 5] = 3.0
    return x, torch.from_numpy(y)


def scikit(x, y, penalty):
    """scikit-learn's scaler and model, in float64."""
    scaler = StandardScaler().fit(x.double().numpy())
    model = LogisticRegression(C=1 / (penalty * len(y)), max_iter=20000, tol=1e-8)
    return scaler, model.fit(scaler.transform(x.double().numpy()), y.numpy())


def fitted(x, y, penalty):
    """Its function from features to probabilities."""
    scaler, model = scikit(x, y, penalty)
    return lambda z: torch.from_numpy(model.predict_proba(scaler.transform(z.double().numpy())))


def least(x, y, penalty):
    """Its objective."""
    scaler, model = scikit(x, y, penalty)
    own = model.predict_proba(scaler.transform(x.double().numpy()))[np.arange(len(y)), y]
    return -np.log(own).mean() + penalty / 2 * np.square(model.coef_).sum()


def along(x):
    return turn(fit_axes(x), x)


def top1(scores, y):
    return (scores.argmax(dim=1) == y).double().mean().item()


CASES = {
    "classes apart": lambda: toy(n=200),
    "two classes": lambda: toy(n=150, classes=2),
    "rectified": lambda: rectified(600),
    "heavy tails": lambda: rectified(600, tails=True),
    "digits": digits,
    "more features than samples": lambda: toy(n=40, d=90),
    "one feature": lambda: toy(n=90, d=1),
    "every row thrice": lambda: tuple(part.repeat_interleave(3, dim=0) for part in toy(n=60)),
    "far from zero": lambda: (rectified(300)[0] + 3000, rectified(300)[1]),
    "separable": lambda: toy(n=90, noise=0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_every_penalty_reaches_the_objective_of_scikit_learn(case):
    x, y = CASES[case]()
    fit = minimise(along(x), y, torch.tensor(PENALTIES), classes=int(y.max()) + 1)
    assert fit.converged.all()
    for at in (0, 4, 8, 12):
        expected = least(x, y, PENALTIES[at])
        assert fit.objective[at].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_scikit_learn(case):
    x, y = CASES[case]()
    classes = int(y.max()) + 1
    axes = fit_axes(x)
    strong = list(PENALTIES[:9:2])
    fit = minimise(turn(axes, x), y, torch.tensor(strong), classes=classes, tolerance=1e-7)
    for at, penalty in enumerate(strong):
        ours = (turn(axes, x) @ fit.weight[at].T).softmax(dim=1).double()
        torch.testing.assert_close(ours, fitted(x, y, penalty)(x), rtol=0, atol=5e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_loss_and_gradient_are_those_of_autograd_in_float64_for_any_chunk(classes):
    x, y = toy(n=50, classes=classes)
    z = along(x)
    weight = torch.randn(3, classes, z.shape[1], generator=generator("weight"))
    ridge = torch.tensor([[1.0], [0.1], [1e-3]]).repeat(1, z.shape[1])
    ridge[:, -1] = 0
    exact = weight.double().requires_grad_()
    losses = [F.cross_entropy(z.double() @ w.T, y) for w in exact]
    expected = torch.stack(losses) + (ridge.double()[:, None] * exact**2).sum(dim=(1, 2)) / 2
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    p = torch.stack([(z.double() @ w.T).softmax(dim=1) for w in exact.detach()])
    for rows in (1, 7, 50, 64):
        value, gradient, spread = evaluate(z, y, weight, ridge, rows)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=1e-6)
        torch.testing.assert_close(spread.double(), (p * (1 - p)).mean(dim=1), rtol=0, atol=1e-6)


def test_a_loss_near_zero_is_not_rounding():
    # 1 - p of the right class is 1e-9, which float32 would drop; its logarithm is not.
    z, y = torch.ones(3, 1), torch.tensor([0, 0, 1])
    weight = torch.tensor([[[20.7], [0.0]], [[0.0], [20.7]]])
    value, gradient, _ = evaluate(z, y, weight, torch.zeros(2, 1), 3)
    tail = float(np.log1p(np.exp(-20.7)))
    expected = torch.tensor([2 * tail + 20.7 + tail, tail + 2 * (20.7 + tail)]).double() / 3
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    value, gradient, _ = evaluate(z[:2], y[:2], weight[:1], torch.zeros(1, 1), 3)
    torch.testing.assert_close(value.item(), tail, rtol=1e-5, atol=0)
    assert gradient[0, 0].item() == pytest.approx(-tail, rel=1e-5)


def test_the_gradient_vanishes_at_the_minimum_in_float64():
    x, y = rectified(500)
    z = along(x)
    fit = minimise(z, y, torch.tensor([0.1, 1e-3]), classes=10, tolerance=1e-7)
    for weight, penalty in zip(fit.weight.double(), (0.1, 1e-3), strict=True):
        weight.requires_grad_()
        loss = F.cross_entropy(z.double() @ weight.T, y)
        (loss + penalty / 2 * weight[:, :-1].square().sum()).backward()
        assert weight.grad is not None
        # The objective lies within |gradient|² / (2 penalty) of its minimum.
        assert weight.grad.square().sum().item() / (2 * penalty) < 1e-4 * loss.item()


def test_a_walk_cut_short_says_so_and_penalties_together_are_penalties_alone():
    x, y = rectified(400)
    z, every = along(x), torch.tensor(PENALTIES[:9:2])
    short = minimise(z, y, every, classes=10, passes=8)
    assert short.converged.tolist() == sorted(short.converged.tolist(), reverse=True)
    assert not short.converged[-1]
    whole = minimise(z, y, every, classes=10)
    assert bool((whole.objective <= short.objective + 1e-9).all())
    for at in range(len(every)):
        alone = minimise(z, y, every[at : at + 1], classes=10)
        assert alone.objective.item() == pytest.approx(whole.objective[at].item(), rel=2e-5)
    assert torch.equal(minimise(z, y, every, classes=10).weight, whole.weight)


def test_among_many_classes_a_rough_walk_is_near_enough_to_choose_by():
    # Under a strong penalty nearly all of the objective stays, log(classes) at first.
    x, y = toy(n=1500, classes=300, noise=1.0, d=32)
    z, every = along(x), torch.tensor(PENALTIES[:6])
    rough, fine = (minimise(z, y, every, classes=300, tolerance=t) for t in (3e-4, 1e-7))
    right = [((z @ fit.weight.mT).argmax(dim=2) == y).double() for fit in (rough, fine)]
    assert (right[0].mean(dim=1) - right[1].mean(dim=1)).abs().max() < 0.015


def test_started_at_its_minimum_a_walk_stays_there(monkeypatch):
    x, y = rectified(400)
    passes = []

    def counted(*args):
        passes.append(args)
        return evaluate(*args)

    monkeypatch.setattr(logistic, "evaluate", counted)
    found = minimise(along(x), y, torch.tensor([0.01]), classes=10)
    far = len(passes)
    again = minimise(along(x), y, torch.tensor([0.01]), classes=10, start=found.weight)
    assert len(passes) - far < far / 2
    assert again.objective.item() == pytest.approx(found.objective.item(), rel=1e-6)


def test_the_probe_is_logistic_regression_with_the_penalty_that_suits_held_out_samples():
    (x, y), (test, labels) = toy(), toy(key="test")
    probe = linear(x, y, test, classes=3, seed=4)
    assert probe.scores.dtype == torch.float32
    assert probe.converged
    fit, held = held_out(y, 4)
    sweep = {p: top1(fitted(x[fit], y[fit], p)(x[held]), y[held]) for p in PENALTIES}
    assert probe.held_out == pytest.approx(sweep, abs=1 / 24 + 1e-6)
    best = max(probe.held_out.values())
    assert probe.penalty == next(p for p in PENALTIES if probe.held_out[p] == best)
    expected = fitted(x, y, probe.penalty)(test)
    torch.testing.assert_close(probe.scores.double(), expected, rtol=0, atol=5e-3)
    assert top1(expected, labels) > 0.6
    assert top1(probe.scores, labels) == pytest.approx(top1(expected, labels), abs=0.01)


def test_another_seed_holds_out_others_and_the_same_gives_the_same():
    (x, y), (test, _) = toy(noise=3.0), toy(key="test", n=30)
    runs = [linear(x, y, test, classes=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].scores, runs[1].scores)
    assert runs[0].held_out == runs[1].held_out != runs[2].held_out


@pytest.mark.parametrize("case", ["rectified", "heavy tails", "digits"])
def test_the_best_accuracy_is_that_of_scikit_learn(case):
    x, y = CASES[case]()
    cut = len(x) * 2 // 3
    given = linear(x[:cut], y[:cut], x[cut:], classes=10, choose=(x[cut:], y[cut:]))
    sweep = {p: top1(fitted(x[:cut], y[:cut], p)(x[cut:]), y[cut:]) for p in PENALTIES[::4]}
    assert max(given.held_out[p] for p in sweep) == pytest.approx(max(sweep.values()), abs=0.016)
    assert top1(given.scores, y[cut:]) == pytest.approx(max(given.held_out.values()), abs=0.016)


def test_the_penalty_is_chosen_on_the_samples_that_are_given():
    x, y = toy(n=60, noise=3.0)
    held, marks = toy(n=60, noise=3.0, key="held")
    given = linear(x, y, x[:1], classes=3, choose=(held, marks))
    sweep = {p: top1(fitted(x, y, p)(held), marks) for p in PENALTIES}
    assert given.held_out == pytest.approx(sweep, abs=4 / 60)
    other = linear(x, y, x[:1], classes=3, choose=(held, (marks + 1) % 3))
    assert max(other.held_out.values()) < min(given.held_out.values())
    unknown = linear(x, y, x[:1], classes=5, choose=(held, torch.full_like(marks, 4)))
    assert set(unknown.held_out.values()) == {0.0}
    assert unknown.penalty == PENALTIES[0]


def test_the_test_samples_change_nothing_but_their_own_scores():
    (x, y), (test, _) = toy(n=90, noise=3.0), toy(n=90, noise=3.0, key="test")
    probe = linear(x, y, test, classes=3)
    moved = linear(x, y, torch.cat([test[:10], 50 * test[10:] + 3]), classes=3)
    assert (moved.penalty, moved.held_out) == (probe.penalty, probe.held_out)
    torch.testing.assert_close(moved.scores[:10], probe.scores[:10], rtol=0, atol=1e-6)
    assert not torch.allclose(moved.scores[10:], probe.scores[10:], atol=0.05)


@pytest.mark.parametrize("what", ["scale and shift", "rows", "classes", "features"])
def test_what_must_not_matter_does_not(what):
    (x, y), (test, _) = toy(n=150), toy(n=40, key="test")
    held = toy(n=60, key="held")
    draw = generator("order")
    plain = linear(x, y, test, classes=3, choose=held)
    names = torch.arange(3)
    if what == "scale and shift":
        by, add = 10.0 ** torch.arange(-4, 4), 10.0 ** torch.arange(-8, 0)
        changed = x * by + add, y, test * by + add, (held[0] * by + add, held[1])
    elif what == "rows":
        order = torch.randperm(150, generator=draw)
        changed = x[order], y[order], test, held
    elif what == "classes":
        names = torch.tensor([2, 0, 1])
        changed = x, names[y], test, (held[0], names[held[1]])
    else:
        order = torch.randperm(8, generator=draw)
        changed = x[:, order], y, test[:, order], (held[0][:, order], held[1])
    *three, chooser = changed
    other = linear(*three, classes=3, choose=chooser)
    assert other.held_out == pytest.approx(plain.held_out, abs=1 / 60 + 1e-6)
    if other.penalty == plain.penalty:
        torch.testing.assert_close(other.scores[:, names], plain.scores, rtol=0, atol=3e-3)


def test_the_objective_does_not_depend_on_the_rotation_of_standardised_features():
    x, y = rectified(400, d=16)
    z = along(x)
    turned = torch.linalg.qr(torch.randn(16, 16, generator=generator("rotation"))).Q
    other = torch.cat([z[:, :-1] @ turned, z[:, -1:]], dim=1)
    every = torch.tensor(PENALTIES)
    one, two = (minimise(rows, y, every, classes=10).objective for rows in (z, other))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=0)


def test_a_class_that_training_lacks_gets_probability_zero():
    x, y = toy(n=90)
    probe = linear(x, torch.tensor([0, 2, 3])[y], x, classes=5)
    plain = linear(x, y, x, classes=3)
    assert not probe.scores[:, [1, 4]].any()
    torch.testing.assert_close(probe.scores[:, [0, 2, 3]], plain.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("counts", [(40, 1), (1, 40), (3, 1), (2, 1, 1), (30, 30, 1), (2, 2)])
def test_the_only_sample_of_a_class_is_fitted_and_the_probe_stands(counts):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = torch.eye(len(counts))[y]
    probe = linear(x, y, x, classes=len(counts))
    expected = fitted(x, y, probe.penalty)(x)
    torch.testing.assert_close(probe.scores.double(), expected, rtol=0, atol=0.01)
    # Where one class alone can be held out, everything held out is of that class.
    if sum(count > 1 for count in counts) == 1 and max(counts) > 30:
        assert set(probe.held_out.values()) == {1.0}


def test_features_that_say_nothing_leave_the_shares_of_the_classes():
    y = torch.tensor([0] * 30 + [1] * 10 + [2] * 10)
    probe = linear(torch.full((50, 4), 7.0), y, torch.zeros(2, 4), classes=3)
    assert probe.penalty == 1.0  # all are equal, the strongest is taken
    expected = torch.tensor([[0.6, 0.2, 0.2]] * 2)
    torch.testing.assert_close(probe.scores, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("y", "match"), [([1, 1, 1], "two classes"), ([0, 1, 2], "hold out")])
def test_a_probe_without_enough_labels_is_refused(y, match):
    x = torch.eye(3)
    with pytest.raises(ValueError, match=match):
        linear(x, torch.tensor(y), x, classes=3)


@pytest.mark.parametrize("part", ["training", "test", "choosing"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_rows_that_are_not_finite_are_counted(part, bad):
    (x, y), broken = toy(n=30), toy(n=30)[0]
    broken[3, 1] = broken[7, 0] = broken[7, 2] = bad
    given = {"training": x, "test": x, "choosing": x} | {part: broken}
    with pytest.raises(ValueError, match=f"2 of 30 {part} rows have features that are not finite"):
        linear(given["training"], y, given["test"], classes=3, choose=(given["choosing"], y))


def test_labels_beyond_the_classes_are_refused():
    x, y = toy(n=30)
    with pytest.raises(ValueError, match="labels from 0 to 2 for 2 classes"):
        linear(x, y, x, classes=2)


def test_folds_score_every_sample_once_by_a_fit_that_never_saw_it():
    # Every sample has a feature of its own, so a fit that saw it knows its random label.
    x = torch.eye(80)
    y = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(80) % 2))
    assert top1(linear(x, y, x, classes=2).scores, y) == 1
    probe = folds(x, y, classes=2)
    assert top1(probe.scores, y) < 0.7
    torch.testing.assert_close(probe.scores.sum(dim=1), torch.ones(80), rtol=0, atol=1e-6)
    assert probe.penalty in PENALTIES


def test_folds_do_as_well_as_a_test_part():
    (x, y), (test, labels) = toy(), toy(key="test")
    crossed, plain = folds(x, y, classes=3), linear(x, y, test, classes=3)
    assert top1(crossed.scores, y) == pytest.approx(top1(plain.scores, labels), abs=0.1)
    assert list(crossed.held_out) == list(PENALTIES)


def test_folds_need_a_sample_of_every_class_in_each():
    x, _ = toy(n=30)
    y = torch.tensor([1] * 26 + [3] * 4)
    with pytest.raises(ValueError, match="5 samples of every class, one has 4"):
        folds(x, y, classes=4)


def test_penalties_are_half_decades_from_strong_to_weak_and_the_chunk_does_not_matter(monkeypatch):
    steps = [weak / strong for strong, weak in pairwise(PENALTIES)]
    assert steps == pytest.approx([10**-0.5] * 12, rel=2e-3)
    x, y = toy(n=90)
    whole = linear(x, y, x, classes=3)
    monkeypatch.setattr(logistic, "ROWS", {"cpu": 13})
    monkeypatch.setattr(linear_module, "ROWS", 7)
    parts = linear(x, y, x, classes=3)
    assert parts.held_out == pytest.approx(whole.held_out, abs=1 / 9 + 1e-6)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=0, atol=3e-3)
