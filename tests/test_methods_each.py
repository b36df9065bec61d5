"""What is particular to each method: its loss is that of its paper, and its state moves as there."""

import math

import pytest
import torch
import toy
from torch import Tensor, nn
from torch.nn import functional as F

from clctl import losses, optim
from clctl.engine import train
from clctl.method import Batch, Clock, Method
from clctl.methods.cpc import Columns, Rows
from clctl.nn.norm import assignment, grouped
from clctl.nn.spread import spread
from clctl.recipe import sections
from clctl.rng import generator

CLOCK = Clock(5, 20, toy.PER_EPOCH)
TWO_VIEWS = {
    "simclr": lambda a, b: losses.nt_xent(a, b, 0.2),
    "debiased": lambda a, b: losses.debiased_nt_xent(a, b, 0.5, 0.1),
    "hard_negative": lambda a, b: losses.hard_negative_nt_xent(a, b, 0.5, 0.1, 1.0),
    "barlow_twins": lambda a, b: losses.barlow_twins(a, b, 0.0051),
    "vicreg": losses.vicreg,
}


def views(name: str, step: int = 3) -> Batch:
    return toy.views(0, step, next(toy.batches(0, step)), sizes=toy.SIZES.get(name, (8, 8)))


def trained(name: str, steps: int = 3, **changes) -> Method:
    method = toy.method(name, **changes)
    plan = toy.plan(10, sizes=toy.SIZES.get(name, (8, 8)))
    ticks = train(plan, method, optim.build(sections.SGD(lr=0.1), method))
    assert [next(ticks).step for _ in range(steps)][-1] == steps
    return method


def projections(method: Method, batch: Batch) -> list[Tensor]:
    return [method.projector(method.encoder(view)) for view in batch.views]


def teachers(method: Method, **changes) -> tuple[list[Tensor], list[Tensor]]:
    online = [method.encoder, method.projector, *changes.get("more", ())]
    return list(method.teacher.parameters()), [p for module in online for p in module.parameters()]


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_two_views_are_compared_by_the_loss_of_the_paper(name):
    method, batch = trained(name), views(name)
    expected = TWO_VIEWS[name](*projections(method, batch))
    assert torch.equal(method(batch, CLOCK).loss, expected)


def test_barlow_twins_scales_its_loss_and_its_chance():
    batch = views("barlow_twins")
    one, tenth = (toy.method("barlow_twins", scale=scale) for scale in (1.0, 0.1))
    assert tenth(batch, CLOCK).loss.item() == pytest.approx(0.1 * one(batch, CLOCK).loss.item())
    assert (one.chance(32), tenth.chance(32)) == (16, pytest.approx(1.6))


def test_supcon_takes_all_views_of_a_class_for_positives():
    method, batch = trained("supcon"), views("supcon")
    z = torch.cat(projections(method, batch))
    labels = torch.cat([batch.labels, batch.labels])
    assert torch.equal(method(batch, CLOCK).loss, losses.sup_con(z, labels, 0.1))


@pytest.mark.parametrize("mining", ["semi_hard", "hard", "all"])
@pytest.mark.parametrize("positives", ["views", "labels"])
def test_triplets_are_mined_on_the_sphere(positives, mining):
    method, batch = trained("triplet", positives=positives, mining=mining), views("triplet")
    assert method.uses_labels == (positives == "labels")
    assert method.per_class == (4 if positives == "labels" else None)
    z = F.normalize(torch.cat(projections(method, batch)), dim=1)
    labels = batch.labels if positives == "labels" else torch.arange(toy.BATCH)
    expected = losses.mined_triplet(z, labels.repeat(2), mining, 0.2)
    found = method(batch if method.uses_labels else Batch(batch.views), CLOCK).loss
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["simclr", "debiased", "supcon", "moco_v1", "nnclr", "triplet"])
def test_what_knows_nothing_is_at_its_chance(name):
    changes = {"tau_plus": 0.0} if name == "debiased" else {}
    method, batch = toy.method(name, **changes), views(name)
    head = method.predictor if name == "nnclr" else method.projector
    with torch.no_grad():
        head[-1].weight.zero_()
        head[-1].bias.fill_(1.0)
        if name == "moco_v1":
            method.teacher.load_state_dict(
                {
                    **method.teacher.state_dict(),
                    **{f"projector.{k}": v for k, v in head.state_dict().items()},
                }
            )
            method.queue.items.fill_(0.25)
    assert method(batch, CLOCK).loss.item() == pytest.approx(method.chance(toy.BATCH), rel=1e-4)


def test_byol_predicts_the_teachers_projection_of_the_other_view():
    method, batch = trained("byol"), views("byol")
    a, b = batch.views
    online = [method.predictor(z) for z in projections(method, batch)]
    target = [method.teacher(view) for view in (b, a)]
    expected = sum(losses.byol(p, t) for p, t in zip(online, target, strict=True)) / 2
    assert torch.equal(method(batch, CLOCK).loss, expected)
    assert torch.equal(method(Batch((b, a)), CLOCK).loss, expected)


def test_moco_v3_tells_the_teachers_keys_apart_both_ways():
    method, (a, b) = trained("moco_v3"), views("moco_v3").views
    query_a, query_b = (method.predictor(z) for z in projections(method, Batch((a, b))))
    key_a, key_b = method.teacher(a), method.teacher(b)
    expected = losses.moco_v3(query_a, key_b, 1.0) + losses.moco_v3(query_b, key_a, 1.0)
    assert torch.equal(method(Batch((a, b)), CLOCK).loss, expected)
    assert torch.equal(method(Batch((b, a)), CLOCK).loss, expected)


@pytest.mark.parametrize("name", ["byol", "moco_v2", "moco_v3", "dino"])
def test_a_teacher_starts_equal_and_follows_the_schedule(name):
    changes = {"momentum_final": 1.0} if name == "moco_v2" else {}
    method, batch = toy.method(name, **changes), views(name)
    teacher, online = teachers(method, more=[method.prototypes] if name == "dino" else [])
    assert all(torch.equal(t, p) for t, p in zip(teacher, online, strict=True))
    with torch.no_grad():
        for p in online:
            p.add_(1)
    for step in (0, 5, 19):
        old = [t.clone() for t in teacher]
        rate = 1 - (1 - 0.9) * (math.cos(math.pi * step / 20) + 1) / 2
        clock = Clock(step, 20, toy.PER_EPOCH)
        method.after_step(method(batch, clock), clock)
        for t, was, p in zip(teacher, old, online, strict=True):
            torch.testing.assert_close(t, rate * was + (1 - rate) * p.detach())


def test_simsiam_predicts_a_target_without_gradient():
    method, batch = trained("simsiam"), views("simsiam")
    a, b = projections(method, batch)
    cosines = [F.cosine_similarity(method.predictor(p), t).mean() for p, t in ((a, b), (b, a))]
    out = method(batch, CLOCK)
    assert out.loss.item() == pytest.approx(-sum(cosines).item() / 2, abs=1e-6)
    free = toy.method("simsiam", stop_gradient=False)
    free.load_state_dict(method.state_dict())
    grads = []
    for m in (method, free):
        m.zero_grad()
        m(batch, CLOCK).loss.backward()
        grads.append(m.projector[0].weight.grad.clone())
    assert not torch.allclose(*grads, rtol=0.1)


def test_the_rate_of_simsiams_predictor_is_fixed():
    method = toy.method("simsiam")
    fixed = [p for group in method.groups() if not group["scheduled"] for p in group["params"]]
    assert {id(p) for p in fixed} == {id(p) for p in method.predictor.parameters()}


@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_tells_its_key_from_the_queue_and_then_enqueues_it(symmetric):
    method, batch = trained("moco_v2", symmetric=symmetric), views("moco_v2")
    pairs = [batch.views, batch.views[::-1]][: 1 + symmetric]
    before = method.queue.items.clone()
    total, keys = torch.zeros(()), []
    for query, key in pairs:
        groups = assignment(CLOCK.seed, CLOCK.step, toy.BATCH, 4, 0, 1)
        with torch.no_grad(), grouped(method.teacher, groups, 4):
            keys.append(method.teacher(key))
        z = method.projector(method.encoder(query))
        total = total + losses.info_nce(z, keys[-1], before, 0.2) / len(pairs)
    out = method(batch, CLOCK)
    torch.testing.assert_close(out.loss, total)
    assert torch.equal(method.queue.items, before)
    head = int(method.queue.head)
    method.after_step(out, CLOCK)
    size = len(before)
    assert size == 64  # half of the images, two whole batches
    places = (head + torch.arange(len(keys) * toy.BATCH)) % size
    torch.testing.assert_close(method.queue.items[places], F.normalize(torch.cat(keys), dim=1))


def test_the_normalisation_of_keys_is_drawn_by_seed_and_step():
    method, batch = trained("moco_v1"), views("moco_v1")
    clocks = (CLOCK, Clock(6, 20, toy.PER_EPOCH), Clock(5, 20, toy.PER_EPOCH, seed=1), CLOCK)
    one, later, other, again = (method(batch, clock).carry["keys"] for clock in clocks)
    assert torch.equal(one, again)
    assert not torch.allclose(one, later)
    assert not torch.allclose(one, other)


def test_nnclr_looks_up_before_the_queue_moves():
    method, batch = trained("nnclr"), views("nnclr")
    support = method.queue.items.clone()
    a, b = projections(method, batch)
    one = losses.nn_info_nce(a, method.predictor(b), support, 0.1)
    two = losses.nn_info_nce(b, method.predictor(a), support, 0.1)
    out = method(batch, CLOCK)
    torch.testing.assert_close(out.loss, (one + two) / 2)
    head = int(method.queue.head)
    assert head == 3 * toy.BATCH % 40
    method.after_step(out, CLOCK)
    places = (head + torch.arange(toy.BATCH)) % 40
    torch.testing.assert_close(method.queue.items[places], F.normalize(a.detach(), dim=1))


@pytest.mark.parametrize("queue", ["auto", None])
def test_swav_swaps_the_balanced_assignments_of_the_large_views(queue):
    method, batch = trained("swav", steps=6, queue=queue), views("swav")
    z = torch.cat([method.encoder(torch.cat(batch.views[:2])), method.encoder(batch.views[2])])
    scores = method.prototypes(method.projector(z)).chunk(3)
    past = [method.prototypes(q.items) for q in method.queues] or [scores[0][:0]] * 2
    assigned = [
        losses.sinkhorn(torch.cat([past[i], scores[i]]).detach())[-toy.BATCH :] for i in range(2)
    ]
    expected = losses.swapped_prediction(list(scores), assigned, 0.1)
    torch.testing.assert_close(method(batch, CLOCK).loss, expected)


def test_swavs_queue_waits_for_its_epoch_and_until_it_is_full():
    method, batch = trained("swav", queue=128), views("swav")
    changed = toy.method("swav", queue=128)
    changed.load_state_dict(method.state_dict())
    for queue in changed.queues:
        queue.items.copy_(queue.items.flip(1))
    for step, used in ((2, False), (3, False), (4, True)):  # an epoch has 4 steps of 32
        clock = Clock(step, 20, toy.PER_EPOCH)
        same = torch.equal(method(batch, clock).loss, changed(batch, clock).loss)
        assert same != used
    early = Clock(20, 40, 40)  # many steps, and still the first epoch
    assert torch.equal(method(batch, early).loss, changed(batch, early).loss)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_prototypes_stand_still_at_first(name):
    method = toy.method(name)
    start = method.prototypes.weight.detach().clone()
    ticks = train(
        toy.plan(10, sizes=toy.SIZES[name]), method, optim.build(sections.SGD(lr=0.1), method)
    )
    for tick in ticks:  # half an epoch of 4 steps
        still = torch.allclose(method.prototypes.weight, start, atol=1e-6)
        assert still == (tick.step <= 2)
    if name == "swav":
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(24))


def test_dino_matches_the_centred_teacher_on_other_crops():
    method, batch = trained("dino"), views("dino")
    head = nn.Sequential(method.projector, method.prototypes)
    large, small = torch.cat(batch.views[:2]), torch.cat(batch.views[2:])
    student = head(torch.cat([method.encoder(large), method.encoder(small)])).chunk(4)
    teacher = method.teacher(large).chunk(2)
    expected = losses.dino(list(student), list(teacher), method.center, 0.1, 0.04)
    out = method(batch, CLOCK)
    torch.testing.assert_close(out.loss, expected)
    center = losses.update_center(method.center, list(teacher), 0.9)
    assert center.abs().max() > 0
    method.after_step(out, CLOCK)
    torch.testing.assert_close(method.center, center)
    assert method.get_submodule(method.evaluated) is method.teacher.encoder


def test_dinos_teacher_warms_up():
    method = toy.method("dino", teacher_temperature=0.07, teacher_warmup=2.0)
    found = [method._temperature(Clock(step, 40, 4)).item() for step in (0, 4, 8, 20)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("context", ["gru", "conv"])
def test_cpc_predicts_the_rows_below_among_all_patches(context, skip):
    method, (view,) = trained("cpc", context=context, skip=skip), views("cpc").views
    grid = [[method.encoder(view[..., y : y + 4, x : x + 4]) for x in (0, 2, 4)] for y in (0, 2, 4)]
    z = method.projector(torch.stack([torch.stack(row, dim=1) for row in grid], dim=1))
    predicted = method.predictors[0](method.context(z)[:, : -1 - skip])
    expected = losses.n_pair(predicted.flatten(0, 2), z[:, 1 + skip :].flatten(0, 2))
    torch.testing.assert_close(method(Batch((view,)), CLOCK).loss, expected)


@pytest.mark.parametrize("kind", [Columns, Rows])
def test_a_context_of_cpc_does_not_see_the_rows_below(kind):
    context = kind(5, 7)
    z = torch.randn(2, 6, 4, 5, generator=generator("cpc"))
    changed = z.clone()
    changed[:, 3:] += 1
    one, two = context(z), context(changed)
    assert one.shape == (2, 6, 4, 7)
    assert torch.equal(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3], two[:, 3])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "changes", "healthy"),
    [
        ("byol", {"projector": (16,), "momentum": 0.0}, True),
        ("byol", {"projector": (16,), "momentum": 0.9}, True),
        ("byol", {"projector": (16,), "momentum": 0.0, "predictor": None}, False),
        ("byol", {"projector": (16,), "momentum": 0.9, "predictor": None}, False),
    ],
)
def test_byol_collapses_without_its_predictor_only(seed, name, changes, healthy):
    method = toy.method(name, seed, **changes)
    plan = toy.plan(40, seed, lr=2.0, noise=2.0)
    *_, last = train(plan, method, optim.build(sections.SGD(lr=1.0, weight_decay=0.0), method))
    found = spread(last.out.watch["projections"])
    assert found > 0.5 if healthy else found < 0.05
