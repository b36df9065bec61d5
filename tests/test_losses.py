"""What holds for every loss, one row of `loss_cases.CASES` each: the equation, who gets gradients,
precision, extreme inputs, refusals. The closed forms of each are in `test_losses_closed.py`."""

import inspect
import subprocess
import sys
from pathlib import Path

import loss_oracles as oracles
import pytest
import torch
from loss_cases import CASES, WIDTH, Case, cases, rows
from torch import Tensor

import clctl.losses
from clctl import losses


def ready(given: list[Tensor]) -> list[Tensor]:
    """Copies of inputs, of which all that could have a gradient ask for one."""
    return [x.clone().requires_grad_(x.is_floating_point()) for x in given]


@cases()
@pytest.mark.parametrize("n", [2, 6, 9])
def test_the_value_equals_explicit_loops(case, n):
    given = case.draw(n)
    found = case(*given)
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert found.item() == pytest.approx(case.oracle(*given), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.5, 1), (0.25, 10)])
def test_sinkhorn_equals_the_loops_of_swav_2006_09882_eq_5(epsilon, iterations):
    scores = rows("scores").tanh()
    found = losses.sinkhorn(scores, epsilon, iterations)
    exact = [x for row in oracles.sinkhorn(scores.tolist(), epsilon, iterations) for x in row]
    assert found.flatten().tolist() == pytest.approx(exact, rel=1e-9)


def test_update_center_equals_the_loops_of_dino_2104_14294_eq_4():
    center, teacher = rows("center", n=1)[0], [rows("t1"), rows("t2")]
    exact = oracles.update_center(center.tolist(), [t.tolist() for t in teacher], 0.7)
    assert losses.update_center(center, teacher, 0.7).tolist() == pytest.approx(exact, rel=1e-12)


@cases()
def test_gradients_equal_finite_differences_and_stop_where_they_should(case):
    given = ready(case.draw(7))
    learning = [given[i] for i in case.learning]

    def value(*moved: Tensor) -> Tensor:
        left = iter(moved)
        return case(
            *(x.detach() if i in case.constant else next(left) for i, x in enumerate(given))
        )

    assert torch.autograd.gradcheck(value, learning)
    case(*given).backward()
    for i, x in enumerate(given):
        assert (x.grad is None) == (i in case.constant)
        assert x.grad is None or x.grad.abs().max() > 0


@cases("cosine", "distance", "dot")
def test_a_rotation_of_all_rows_changes_nothing(case):
    given, turn = case.draw(), torch.linalg.qr(rows("turn", n=WIDTH)).Q
    moved = [x @ turn if x.is_floating_point() else x for x in given]
    assert case(*moved).item() == pytest.approx(case(*given).item(), rel=1e-9)


@cases("cosine")
def test_the_norms_of_rows_change_nothing(case):
    given, sizes = case.draw(), torch.tensor([1e-3, 1.0, 7.0, 0.5, 100.0, 3.0])[:, None]
    moved = [x * sizes[: len(x)] if x.is_floating_point() else x for x in given]
    assert case(*moved).item() == pytest.approx(case(*given).item(), rel=1e-9)


@cases("distance", "dot")
def test_the_norms_of_rows_that_are_taken_as_given_matter(case):
    given = case.draw()
    moved = [2 * x if x.is_floating_point() else x for x in given]
    assert abs(case(*moved).item() - case(*given).item()) > 1e-3


@cases()
def test_the_order_of_samples_changes_nothing_but_who_belongs_to_whom_does(case):
    given = case.draw()
    order = {len(x): torch.arange(len(x)).roll(2) for x in given}
    fixed = [name == "center" for name in case.names]
    moved = [x if f else x[order[len(x)]] for x, f in zip(given, fixed, strict=True)]
    assert case(*moved).item() == pytest.approx(case(*given).item(), rel=1e-9)
    torn = [moved[0], *given[1:]]
    assert abs(case(*torn).item() - case(*given).item()) > 1e-3


@cases()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case, dtype):
    given = case.draw(dtype=dtype)
    found = case(*given)
    assert found.dtype == torch.float32
    assert torch.equal(found, case(*(x.float() if x.is_floating_point() else x for x in given)))


@cases()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_autocast_does_not_reach_the_arithmetic(case, dtype):
    given = ready(case.draw(dtype=dtype))
    learning = [given[i] for i in case.learning]
    plain = case(*given)
    expected = torch.autograd.grad(plain, learning)
    with torch.autocast("cpu", torch.bfloat16):
        cast = case(*given)
    assert cast.dtype == plain.dtype
    assert torch.equal(cast, plain)
    found = torch.autograd.grad(cast, learning)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@cases(where=lambda case: len(case.names) > 1 and "labels" not in case.names)
def test_inputs_of_two_precisions_meet_in_the_wider_one(case):
    given = case.draw()
    halved = [given[0].bfloat16().double(), *given[1:]]
    assert torch.equal(case(given[0].bfloat16(), *given[1:]), case(*halved))


@cases()
@pytest.mark.parametrize("sharp", [False, True], ids=["usual", "sharp"])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e-18, 1e18])
def test_extreme_rows_leave_a_finite_value_and_finite_gradients(case, sharp, size):
    if size == 1e18 and case.sort != "cosine":
        size = 1e4
    same = size * torch.ones(6, WIDTH)
    halves = torch.cat([same[:3], -same[3:]])
    for fills in ((same, same), (same, 0 * same), (0 * same, same), (halves, -halves)):
        given = case.draw(dtype=torch.float32)
        seen = 0
        for i, x in enumerate(given):
            if x.dim() == 2 and i not in case.constant:
                given[i], seen = fills[seen % 2], seen + 1
        given = ready(given)
        value = case(*given, sharp=sharp)
        value.backward()
        assert value.isfinite()
        for i, x in enumerate(given):
            assert i in case.constant or x.grad.isfinite().all()


@cases()
def test_what_is_not_a_number_stays_so(case):
    # A loss that hides it would train on.
    given = case.draw()
    given[case.learning[0]][1, 2] = float("nan")
    assert case(*given).isnan()


@cases("cosine", where=lambda case: bool(case.sharp))
def test_a_temperature_may_be_a_tensor_that_learns(case):
    t, given = torch.tensor(0.3, dtype=torch.float64, requires_grad=True), case.draw()

    def loss(temperature, given=given):
        return getattr(losses, case.name)(*given, **case.options | {"temperature": temperature})

    assert torch.autograd.gradcheck(loss, (t,))
    torch.testing.assert_close(loss(t), loss(0.3), rtol=1e-12, atol=0)
    single = [x.float() if x.is_floating_point() else x for x in given]
    assert loss(t, single).dtype == torch.float32


def test_dino_takes_temperatures_and_momentum_as_tensors_on_the_device():
    crops, center = [rows("a"), rows("b")], rows("center", n=1)[0]
    warm, m = torch.tensor(0.07), torch.tensor(0.9)
    found = losses.dino(crops, crops, center, torch.tensor(0.1), warm)
    torch.testing.assert_close(
        found, losses.dino(crops, crops, center, 0.1, 0.07), rtol=1e-5, atol=0
    )
    flat = losses.dino(crops, crops, center[None], 0.1, 0.07)
    assert torch.equal(flat, losses.dino(crops, crops, center, 0.1, 0.07))
    assert losses.update_center(center[None], crops).shape == (1, len(center))
    moved = losses.update_center(center, crops, m)
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved, losses.update_center(center, crops, 0.9), rtol=1e-6, atol=0)


SHAPES = [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((2, 2, 2), (2, 2, 2))]
PAIRS = [
    "barlow_twins",
    "byol",
    "debiased_nt_xent",
    "hard_negative_nt_xent",
    "info_nce",
    "moco_v3",
    "n_pair",
    "negative_cosine",
    "nt_xent",
    "temperature_free_info_nce",
    "temperature_free_nt_xent",
    "vicreg",
]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_shapes_that_do_not_match_are_refused(name, shapes):
    a, b = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"must both be \[N, D\], got \([24],"):
        getattr(losses, name)(a, b)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_inputs_are_refused(name, shape):
    with pytest.raises(ValueError, match="must not be empty"):
        getattr(losses, name)(torch.ones(shape), torch.ones(shape))


X, Y, L = torch.ones(4, 3), torch.ones(4, 2), torch.zeros(4, dtype=torch.long)
REFUSALS = {
    "triplet shapes": ("triplet", (X, X, Y), {}, r"anchor, positive and negative must all be"),
    "triplet margin": ("triplet", (X, X, X), {"margin": -0.1}, "margin must not be below 0"),
    "pairwise margin": ("pairwise_contrastive", (X, X, L), {"margin": -1}, "margin must not be"),
    "pairwise same": ("pairwise_contrastive", (X, X, L[:3]), {}, r"same must be \[4\].*\(3,\)"),
    "mined shape": ("mined_triplet", (L, L), {}, r"z must be \[N, D\], got \(4,\)"),
    "mined labels": ("mined_triplet", (X, L[:3]), {}, r"labels must be \[4\].*\(3,\)"),
    "mined labels 2-d": ("mined_triplet", (X, X), {}, r"labels must be \[4\].*\(4, 3\)"),
    "mined margin": ("mined_triplet", (X, L), {"margin": float("nan")}, "margin must not be"),
    "mined mining": (
        "mined_triplet",
        (X, L),
        {"mining": "easy"},
        "semi_hard, hard or all, got 'easy'",
    ),
    "sup_con labels": ("sup_con", (X, L[:2]), {}, r"labels must be \[4\].*\(2,\)"),
    "sup_con form": ("sup_con", (X, L), {"form": "mid"}, "form must be out or in, got 'mid'"),
    "negatives width": ("info_nce", (X, X, Y), {}, r"negatives must be \[K, 3\].*\(4, 2\)"),
    "no negatives": ("info_nce", (X, X, X[:0]), {}, r"negatives must be \[K, 3\] with K > 0"),
    "support width": ("nn_info_nce", (X, X, Y), {}, r"support must be \[K, 3\].*\(4, 2\)"),
    "nn shapes": ("nn_info_nce", (X, Y, X), {}, r"projection and prediction must both be"),
    "tau_plus 1": ("debiased_nt_xent", (X, X), {"tau_plus": 1.0}, r"tau_plus must be in \[0, 1\)"),
    "tau_plus -": ("hard_negative_nt_xent", (X, X), {"tau_plus": -0.1}, "tau_plus must be in"),
    "beta": ("hard_negative_nt_xent", (X, X), {"beta": -1.0}, "beta must not be below 0, got -1.0"),
    "one row, Barlow Twins": ("barlow_twins", (X[:1], X[:1]), {}, "a variance needs 2 rows"),
    "one row, VICReg": ("vicreg", (X[:1], X[:1]), {}, "a variance needs 2 rows"),
    "scores shape": ("sinkhorn", (L,), {}, r"scores must be \[B, K\].*\(4,\)"),
    "epsilon": ("sinkhorn", (X,), {"epsilon": 0.0}, "epsilon must be above 0"),
    "iterations": ("sinkhorn", (X,), {"iterations": 0}, "iterations must be 1 or more"),
    "crops shapes": ("swapped_prediction", ([X, Y], [X]), {}, r"must all be \[B, K\] of one shape"),
    "one crop": ("swapped_prediction", ([X], [X]), {}, "2 crops or more.* got 1 and 1"),
    "no crops": ("swapped_prediction", ([], []), {}, "scores and assignments must all be"),
    "no assignments": ("swapped_prediction", ([X, X], []), {}, "2 crops or more.* got 2 and 0"),
    "more teacher": ("dino", ([X, X], [X, X, X], X[0]), {}, "2 crops or more.* got 2 and 3"),
    "center width": ("dino", ([X, X], [X], Y[0]), {}, r"center must be \[K\].*\(2,\) and"),
    "center 2-d": ("dino", ([X, X], [X], X[:2]), {}, r"center must be \[K\].*\(2, 3\) and"),
    "update width": ("update_center", (Y[0], [X]), {}, r"center must be \[K\].*\(2,\) and"),
    "update nothing": ("update_center", (X[0], []), {}, r"center must be \[K\].*\(3,\) and \[\]"),
    "momentum": ("update_center", (X[0], [X]), {"momentum": 1.1}, r"momentum must be in \[0, 1\]"),
}


@pytest.mark.parametrize(("name", "given", "options", "text"), REFUSALS.values(), ids=REFUSALS)
def test_what_makes_no_sense_is_refused(name, given, options, text):
    with pytest.raises(ValueError, match=text):
        getattr(losses, name)(*given, **options)


TEMPERATURES = [
    (case, key)
    for name, case in CASES.items()
    for key in inspect.signature(getattr(losses, case.name)).parameters
    if "temperature" in key and "," not in name
]


@pytest.mark.parametrize(("case", "key"), TEMPERATURES, ids=lambda x: getattr(x, "name", x))
def test_temperatures_not_above_zero_are_refused(case, key):
    bad = {0.0: "above 0", -1.0: "above 0", float("nan"): "above 0", torch.ones(1): "0-d"}
    for value, text in bad.items():
        with pytest.raises(ValueError, match=f"{key} must be .*{text}, got"):
            Case(case.name, case.inputs, case.sort, options={key: value}, lists=case.lists)(
                *case.draw()
            )


def test_the_library_says_what_it_has():
    public = {n for n, x in vars(losses).items() if inspect.isfunction(x) and n[0] != "_"}
    assert public == set(losses.__all__)
    assert sorted(losses.__all__) == losses.__all__
    assert public - {case.name for case in CASES.values()} == {"sinkhorn", "update_center"}
    for name in public:
        text = getattr(losses, name).__doc__
        assert all(part in text for part in ("Args:", "Returns:", "Raises:", "[")), name
    files = Path(clctl.losses.__file__).parent.glob("[!_]*.py")
    assert not [f.name for f in files if "Source:" not in f.read_text("utf-8")]


def test_the_library_loads_nothing_else_of_the_package():
    code = "import sys, clctl.losses; print(*(m for m in sys.modules if m.startswith('clctl')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {m for m in done.stdout.split() if not m.startswith("clctl.losses")}
    assert loaded == {"clctl", "clctl.distributed"}
