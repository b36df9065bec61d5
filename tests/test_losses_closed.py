"""Losses of inputs so plain that the answer can be written down, and losses that are another one.

Source of each equation: the ids of `loss_cases.CASES`.
"""

from math import atanh, exp, log, sqrt

import pytest
import torch
from loss_cases import WIDTH, rows
from torch import Tensor
from torch.nn import functional as F

from clctl import losses
from clctl.losses import (
    barlow_twins,
    byol,
    debiased_nt_xent,
    dino,
    hard_negative_nt_xent,
    info_nce,
    mined_triplet,
    moco_v3,
    n_pair,
    negative_cosine,
    nn_info_nce,
    nt_xent,
    pairwise_contrastive,
    sinkhorn,
    sup_con,
    swapped_prediction,
    temperature_free_info_nce,
    temperature_free_nt_xent,
    triplet,
    update_center,
    vicreg,
)

F64 = torch.float64
NT_XENTS = ["nt_xent", "debiased_nt_xent", "hard_negative_nt_xent"]
EDGE = 2 * atanh(1 - 1e-6)


def same(n: int = 5) -> Tensor:
    return rows("one", n=1).expand(n, WIDTH)


def basis(n: int) -> Tensor:
    return torch.eye(n, dtype=F64)


def close(expected: float, tolerance: float = 1e-9):
    return pytest.approx(expected, abs=tolerance)


EQUAL = {  # five equal rows, three equal negatives
    "pairwise_contrastive, similar": (lambda x: pairwise_contrastive(x, x, torch.ones(5)), 0),
    "pairwise_contrastive, not": (lambda x: pairwise_contrastive(x, x, torch.zeros(5), 3), 9),
    "triplet": (lambda x: triplet(x, x, x, 0.3), 0.3),
    "mined_triplet semi_hard": (lambda x: mined_triplet(x, torch.tensor([0, 0, 0, 1, 1])), 0.2),
    "mined_triplet hard": (lambda x: mined_triplet(x, torch.tensor([0, 0, 0, 1, 2]), "hard"), 0.2),
    "mined_triplet all": (lambda x: mined_triplet(x, torch.tensor([0, 0, 1, 1, 2]), "all"), 0.2),
    "n_pair": (lambda x: n_pair(x, x), log(5)),
    "info_nce": (lambda x: info_nce(x, 2 * x), log(5)),
    "info_nce negatives": (lambda x: info_nce(x, x, 4 * x[:3]), log(4)),
    "temperature_free_info_nce": (lambda x: temperature_free_info_nce(x, 3 * x), log(5)),
    "temperature_free_nt_xent": (lambda x: temperature_free_nt_xent(x, 3 * x), log(9)),
    "sup_con out": (lambda x: sup_con(x, torch.tensor([0, 0, 1, 1, 2])), log(4)),
    "sup_con in": (lambda x: sup_con(x, torch.tensor([0, 0, 0, 1, 1]), form="in"), log(4)),
    "moco_v3": (lambda x: moco_v3(x, x, 0.2), 0.4 * log(5)),
    "nn_info_nce": (lambda x: nn_info_nce(x, x, x[:2]), log(5)),
    "byol": (lambda x: byol(x, 3 * x), 0),
    "negative_cosine": (lambda x: negative_cosine(x, 3 * x), -1),
    "barlow_twins": (lambda x: barlow_twins(x, 2 * x), WIDTH),
    "vicreg": (lambda x: vicreg(x, x), 25 * 0.99),
    "vicreg, two points": (lambda x: vicreg(x, x + 2), 25 * 4 + 25 * 0.99),
    "swapped_prediction": (
        lambda x: swapped_prediction([0 * x, 0 * x], [x.softmax(dim=1)]),
        log(WIDTH),
    ),
    "dino": (lambda x: dino([0 * x, 0 * x], [x, x], x[0]), log(WIDTH)),
}


@pytest.mark.parametrize(("loss", "expected"), EQUAL.values(), ids=EQUAL)
def test_equal_rows(loss, expected):
    assert loss(same()).item() == close(expected)


@pytest.mark.parametrize("name", NT_XENTS)
@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_nt_xents_of_equal_rows_are_the_log_of_the_others(name, n, temperature):
    found = getattr(losses, name)(same(n), 3 * same(n), temperature)
    assert found.item() == close(log(2 * n - 1))


@pytest.mark.parametrize("name", NT_XENTS)
def test_nt_xents_of_zero_rows_see_all_similarities_as_0(name):
    zero = torch.zeros(3, WIDTH)
    assert getattr(losses, name)(zero, zero, 0.01).item() == close(log(5), 1e-6)


ALONE = {  # one row, or rows that have nobody to be compared with
    **{name: (lambda x, name=name: getattr(losses, name)(x[:1], x[1:2])) for name in NT_XENTS},
    "temperature_free_info_nce": lambda x: temperature_free_info_nce(x[:1], x[1:2]),
    "temperature_free_nt_xent": lambda x: temperature_free_nt_xent(x[:1], x[1:2]),
    "info_nce": lambda x: info_nce(x[:1], x[1:2]),
    "n_pair": lambda x: n_pair(x[:1], x[1:2]),
    "moco_v3": lambda x: moco_v3(x[:1], x[1:2]),
    "nn_info_nce": lambda x: nn_info_nce(x[:1], x[:1], x[1:2]),
    "sup_con out, one row": lambda x: sup_con(x[:1], torch.tensor([0]), 0.01),
    "sup_con in, one row": lambda x: sup_con(x[:1], torch.tensor([0]), 0.01, "in"),
    "sup_con out, no positives": lambda x: sup_con(x, torch.arange(2), 0.01),
    "sup_con in, no positives": lambda x: sup_con(x, torch.arange(2), 0.01, "in"),
    **{
        f"mined_triplet {mining}, {why}": (
            lambda x, mining=mining, labels=labels: mined_triplet(
                x[: len(labels)], torch.tensor(labels), mining
            )
        )
        for mining in ("semi_hard", "hard", "all")
        for why, labels in (("one row", [0]), ("no positive", [0, 1]), ("no negative", [0, 0]))
    },
}


@pytest.mark.parametrize("loss", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_to_compare_with_is_nothing_to_learn(loss, dtype):
    x = rows("two", n=2, dtype=dtype).requires_grad_()
    value = loss(x)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


SHARE = exp(-1 / 0.2)  # of a negative at a right angle beside a positive at none, temperature 0.2
ORTHOGONAL = {
    "nt_xent": (lambda x: nt_xent(x, x, 0.2), log(1 + 8 * SHARE)),
    "debiased_nt_xent, no correction": (
        lambda x: debiased_nt_xent(x, x, 0.2, 0.0),
        log(1 + 8 * SHARE),
    ),
    "debiased_nt_xent, corrected": (
        lambda x: debiased_nt_xent(x, x, 0.5, 0.1),
        log(1 + 8 * (exp(-2) - 0.1) / 0.9),
    ),
    "debiased_nt_xent, at its floor": (
        lambda x: debiased_nt_xent(x, x, 0.2, 0.1),
        log(1 + 8 * SHARE**2),
    ),
    "hard_negative_nt_xent": (  # all negatives are equally hard
        lambda x: hard_negative_nt_xent(x, x, 0.5, 0.1, 3.0),
        log(1 + 8 * (exp(-2) - 0.1) / 0.9),
    ),
    "info_nce": (lambda x: info_nce(x, x, temperature=0.2), log(1 + 4 * SHARE)),
    "info_nce negatives": (lambda x: info_nce(x[:2], x[:2], x[2:], 0.2), log(1 + 3 * SHARE)),
    "moco_v3": (lambda x: moco_v3(x, x, 0.2), 0.4 * log(1 + 4 * SHARE)),
    "nn_info_nce": (lambda x: nn_info_nce(x, x, 2 * x, 0.2), log(1 + 4 * SHARE)),
    "n_pair": (lambda x: n_pair(x, 5 * x), log(1 + 4 * exp(-5))),
    "temperature_free_info_nce": (
        lambda x: temperature_free_info_nce(x, x),
        log(1 + 4 * exp(-EDGE)),
    ),
    "temperature_free_nt_xent": (
        lambda x: temperature_free_nt_xent(x, x),
        log(1 + 8 * exp(-EDGE)),
    ),
    "sup_con out": (  # four of five directions have two more positives, at a right angle
        lambda x: sup_con(torch.cat([x, x]), torch.tensor([0, 0, 1, 1, 2] * 2), 0.2),
        log(1 + 8 * SHARE) + 0.8 * 2 / 3 / 0.2,
    ),
    "sup_con in": (
        lambda x: sup_con(torch.cat([x, x]), torch.tensor([0, 0, 1, 1, 2] * 2), 0.2, "in"),
        log(1 + 8 * SHARE) - 0.8 * log((1 + 2 * SHARE) / 3),
    ),
    "byol": (lambda x: byol(x, x.roll(1, 0)), 2),
    "byol, opposite": (lambda x: byol(x, -0.5 * x), 4),
    "negative_cosine": (lambda x: negative_cosine(x, x.roll(1, 0)), 0),
    "negative_cosine, opposite": (lambda x: negative_cosine(x, -0.5 * x), 1),
}


@pytest.mark.parametrize(("loss", "expected"), ORTHOGONAL.values(), ids=ORTHOGONAL)
def test_orthogonal_rows(loss, expected):
    assert loss(basis(5)).item() == close(expected)


def test_nt_xent_of_orthogonal_rows_without_partners():
    # Eight directions that are all orthogonal: a partner is no nearer than any other row.
    assert nt_xent(basis(8)[:4], basis(8)[4:], 0.1).item() == close(log(7), 1e-12)


LINE = torch.tensor([[0.0], [1.0], [3.0], [4.0], [9.0]], dtype=F64)
MINED = {  # points on a line, worked out by hand
    "semi_hard": (
        "semi_hard",
        [0, 0, 1, 1, 2],
        1.5,
        [1 - 3 + 1.5, 1 - 2 + 1.5, 1 - 2 + 1.5, 1 - 3 + 1.5],
    ),
    "semi_hard, none is farther for two": (
        "semi_hard",
        [0, 1, 1, 1, 0],
        1.5,
        [9 - 4 + 1.5, 9 - 8 + 1.5, *(0, 0, 2 - 3 + 1.5, 1 - 3 + 1.5, 3 - 4 + 1.5, 1 - 4 + 1.5)],
    ),
    "hard": ("hard", [0, 1, 1, 1, 0], 1, [9 - 1 + 1, 3 - 1 + 1, 2 - 3 + 1, 3 - 4 + 1, 9 - 5 + 1]),
    "all": ("all", [0, 0, 1, 2, 3], 2.5, [1 - 3 + 2.5, 1 - 2 + 2.5, 1 - 3 + 2.5]),
    "no negative": ("semi_hard", [0, 0, 0, 0, 0], 1, [0]),
    "no positive": ("hard", [0, 1, 2, 3, 4], 1, [0]),
    "all are far": ("all", [0, 0, 1, 1, 2], 0, [0]),
}


@pytest.mark.parametrize(("mining", "labels", "margin", "terms"), MINED.values(), ids=MINED)
def test_triplets_mined_on_a_line(mining, labels, margin, terms):
    found = mined_triplet(LINE, torch.tensor(labels), mining, margin)
    terms = [max(0, x) for x in terms]
    assert found.item() == close(sum(terms) / len(terms))


def test_distances_are_those_of_pythagoras():
    zero, p, n = (torch.tensor([x], dtype=F64) for x in ([0, 0], [3, 4], [0, 2]))
    assert triplet(zero, p, n, 1.0).item() == close(5 - 2 + 1)
    assert triplet(zero, p, n, 1.0, squared=True).item() == close(25 - 4 + 1)
    assert triplet(zero, n, p, 3.0).item() == 0
    assert pairwise_contrastive(zero, p, torch.tensor([1])).item() == close(25)
    assert pairwise_contrastive(zero, p, torch.tensor([0]), 7).item() == close(4)
    assert pairwise_contrastive(zero, p, torch.tensor([False]), 5).item() == 0


def test_points_that_coincide_have_no_direction_to_be_pushed_in():
    x = torch.ones(2, 3, dtype=F64, requires_grad=True)
    for loss in (
        pairwise_contrastive(x, x.detach(), torch.tensor([0, 1])),
        triplet(x, x.detach(), x.detach()),
        mined_triplet(torch.cat([x, x]), torch.tensor([0, 0, 0, 1])),
    ):
        (grad,) = torch.autograd.grad(loss, x)
        assert torch.equal(grad, torch.zeros_like(x))


def test_a_negative_as_far_as_the_positive_is_not_farther():
    z = torch.tensor([[0.0], [1.0], [-1.0], [3.0]])
    terms = [1 - 3 + 2.5, 1 - 2 + 2.5, 4 - 2 + 2.5, 4 - 3 + 2.5]  # for two nothing is farther
    assert mined_triplet(z, torch.tensor([0, 0, 1, 1]), margin=2.5).item() == close(sum(terms) / 4)


def test_small_distances_survive_far_from_the_origin():
    z = (1000 + torch.tensor([[0.0], [0.25], [0.375], [0.5]])).expand(4, 9)
    exact = mined_triplet(z.double(), torch.tensor([0, 0, 1, 1]), "hard")
    assert mined_triplet(z, torch.tensor([0, 0, 1, 1]), "hard").item() == close(exact.item(), 1e-6)


SIGNS = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=F64)


def test_barlow_twins_of_columns_that_are_not_correlated():
    one = 1 / (1 + 1e-5)  # a variance of 1 is divided by a little more
    assert barlow_twins(SIGNS, SIGNS).item() == close(3 * (1 - one) ** 2, 1e-15)
    turned = SIGNS.roll(1, 1)  # each column is another column of the other view
    assert barlow_twins(SIGNS, turned, 0.5).item() == close(3 + 0.5 * 3 * one**2)
    assert barlow_twins(SIGNS, -SIGNS).item() == close(3 * (1 + one) ** 2)
    scaled = SIGNS * torch.tensor([7.0, 100.0, 1e3]) + 5
    assert barlow_twins(scaled, scaled).item() == close(0)


def test_vicreg_of_columns_that_are_not_correlated():
    var = 4 / 3  # unbiased
    assert vicreg(SIGNS, SIGNS).item() == 0
    small = 0.5 * SIGNS
    hinge = 1 - sqrt(var / 4 + 1e-4)
    assert vicreg(small, small, 0, 1, 0).item() == close(hinge)
    assert vicreg(small, SIGNS, 0, 1, 0).item() == close(hinge / 2)
    assert vicreg(SIGNS, small, 1, 0, 0).item() == close(0.25)
    both = SIGNS[:, [0, 0, 1]]  # columns 0 and 1 are one
    assert vicreg(both, both, 0, 0, 1).item() == close(2 * 2 * var**2 / 3)


def test_sinkhorn_balances_and_ends_with_the_rows():
    q = sinkhorn(rows("s", n=12).tanh(), 0.5, 200)
    assert q.sum(dim=1).sub(1).abs().max() < 1e-9
    assert q.sum(dim=0).sub(12 / WIDTH).abs().max() < 1e-9
    uneven = sinkhorn(rows("s", n=12).tanh(), 0.05, 1)
    assert uneven.sum(dim=1).sub(1).abs().max() < 1e-9
    assert uneven.sum(dim=0).sub(12 / WIDTH).abs().max() > 1e-2


def test_sinkhorn_of_plain_scores():
    assert torch.equal(sinkhorn(torch.zeros(6, 4)), torch.full((6, 4), 0.25))
    torch.testing.assert_close(sinkhorn(basis(4), 0.01), basis(4), rtol=0, atol=1e-12)
    shifted = rows("s").tanh() + rows("shift", n=6, d=1) + rows("shift", n=1)
    torch.testing.assert_close(sinkhorn(shifted, 0.3, 50), sinkhorn(rows("s").tanh(), 0.3, 50))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sinkhorn_is_stable_for_all_cosines(dtype):
    scores = torch.linspace(-1, 1, 64 * 32).view(32, 64).T.to(dtype)
    exact, found = sinkhorn(scores.double()), sinkhorn(scores)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-7)
    assert not sinkhorn(scores.clone().requires_grad_()).requires_grad
    assert sinkhorn(100 * scores).isfinite().all()


def test_crops_do_not_predict_themselves():
    crops, none = [rows("a"), rows("b"), rows("c")], torch.zeros(WIDTH, dtype=F64)
    q = [x.softmax(dim=1) for x in crops]
    entropy = -(q[0] * q[0].log()).sum(dim=1).mean().item()
    cross = -(q[0] * q[1].log()).sum(dim=1).mean().item()
    for loss in (
        lambda s: swapped_prediction(s, [q[0]], 1.0),
        lambda s: dino(s, [crops[0]], none, 1.0, 1.0),
    ):
        assert loss([crops[2], crops[0]]).item() == close(entropy)
        assert loss([crops[2], crops[1]]).item() == close(cross)
        assert loss([crops[2], crops[0], crops[1]]).item() == close((entropy + cross) / 2)


def test_dino_sharpens_and_centres_the_teacher_alone():
    student, teacher = [rows("a"), rows("b")], [rows("t")]
    center = rows("center", n=1)[0]
    value = dino(student, teacher, center).item()
    moved = [x + rows("m", d=1) for x in student]  # a softmax does not see a shift of its row
    assert dino(moved, teacher, center).item() == close(value)
    assert dino(student, [teacher[0] + center], 2 * center).item() == close(value)
    hard = F.cross_entropy(student[1] / 0.1, teacher[0].argmax(dim=1)).item()
    assert dino(student, teacher, 0 * center, 0.1, 1e-4).item() == close(hard)


def test_update_center_leaves_its_inputs_alone_and_needs_no_graph():
    center, teacher = rows("c", n=1)[0], [rows("t").requires_grad_()]
    before = center.clone()
    assert torch.equal(update_center(center, teacher, 1.0), center)
    assert torch.equal(update_center(center, teacher, 0.0), teacher[0].detach().mean(dim=0))
    assert torch.equal(center, before)
    assert not update_center(center, teacher).requires_grad
    assert update_center(center.float(), [teacher[0].bfloat16()]).dtype == torch.float32


A, B = rows("a"), rows("b")
TWO = torch.cat([A, B])
PAIRS = torch.arange(6).repeat(2)
IDENTITIES = {
    "debiased, tau_plus 0 = nt_xent": (debiased_nt_xent(A, B, 0.2, 0.0), nt_xent(A, B, 0.2)),
    "hard, beta 0 = debiased": (
        hard_negative_nt_xent(A, B, 0.3, 0.05, 0.0),
        debiased_nt_xent(A, B, 0.3, 0.05),
    ),
    "hard, beta and tau_plus 0 = nt_xent": (
        hard_negative_nt_xent(A, B, 0.01, 0.0, 0.0),
        nt_xent(A, B, 0.01),
    ),
    "sup_con of two views = nt_xent": (sup_con(TWO, PAIRS, 0.2), nt_xent(A, B, 0.2)),
    "sup_con in of two views = nt_xent": (sup_con(TWO, PAIRS, 0.2, "in"), nt_xent(A, B, 0.2)),
    "byol = 2 + 2 negative_cosine": (byol(A, B), 2 + 2 * negative_cosine(A, B)),
    "moco_v3 = 2 t info_nce": (moco_v3(A, B, 0.2), 0.4 * info_nce(A, B, temperature=0.2)),
    "n_pair of unit rows = info_nce": (
        n_pair(A / A.norm(dim=1, keepdim=True), B / B.norm(dim=1, keepdim=True)),
        info_nce(A, B, temperature=1.0),
    ),
    "nn_info_nce that finds itself = info_nce": (
        nn_info_nce(A, B, A, 0.2),
        info_nce(A, B, temperature=0.2),
    ),
    "info_nce of one query = its batch as negatives": (
        info_nce(A, B, temperature=0.2),
        torch.stack(
            [info_nce(A[i : i + 1], B[i : i + 1], B[torch.arange(6) != i], 0.2) for i in range(6)]
        ).mean(),
    ),
    "pairwise_contrastive of similar pairs = byol": (
        pairwise_contrastive(
            A / A.norm(dim=1, keepdim=True), B / B.norm(dim=1, keepdim=True), torch.ones(6)
        ),
        byol(A, B),
    ),
    "mined_triplet of one triplet = triplet": (
        mined_triplet(A[:3], torch.tensor([0, 0, 1]), "all", 100.0),
        (triplet(A[0:1], A[1:2], A[2:3], 100.0) + triplet(A[1:2], A[0:1], A[2:3], 100.0)) / 2,
    ),
}


@pytest.mark.parametrize(("left", "right"), IDENTITIES.values(), ids=IDENTITIES)
def test_losses_that_are_another_one(left, right):
    assert left.item() == pytest.approx(right.item(), rel=1e-10)
