"""Fine-tuning: how encoders are cut into blocks, and training against AdamW in plain loops."""

import math

import pytest
import timm
import torch
import toy
from torch import nn
from torch.nn import functional as F

from clctl.console import Exit, Problem
from clctl.encoders._vit import ViT
from clctl.evaluate.blocks import blocks
from clctl.evaluate.finetune import FETCH, STD, Tuned, Tuning, finetune, probabilities
from clctl.method import Encoder
from clctl.recipe.plugins import config, known
from clctl.rng import generator, seeded

CPU = torch.device("cpu")
CLASSES, BATCH, SIZE = 5, 6, 16
OURS = sorted(known("clctl.encoders").keys() - {"timm"})
TIMMS = [f"timm/test_{kind}" for kind in ("vit", "resnet", "convnext", "efficientnet")]


def build(name: str, size: int = 32, **settings) -> Encoder:
    settings = {"name": name, **settings} if "/" in name else settings
    with seeded("finetune", name):
        return config("clctl.encoders", name)(**settings).build(size)


def small(norm: str = "batch") -> Encoder:
    return build("resnet_small", SIZE, width=8, norm=norm)


def transformer(drop_path: float = 0.0, frozen_patch: bool = False) -> ViT:
    with seeded("finetune", "vit"):
        return ViT(SIZE, 8, 64, "mean", drop_path, frozen_patch)


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    key = generator("finetune", "batches", step)
    x = torch.randn(BATCH, 3, SIZE, SIZE, generator=key)
    return x, torch.randint(CLASSES, (BATCH,), generator=key)


def tune(encoder: Encoder, steps: int = 3, seed: int = 0, **settings) -> Tuned:
    return finetune(encoder, CLASSES, batches, steps, Tuning(**settings), seed=seed, device=CPU)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def named(encoder: Encoder) -> list[tuple[str, list[str]]]:
    names = {id(p): name for name, p in encoder.named_parameters()}
    return [(label, [names[id(p)] for p in part]) for label, part in blocks(encoder)]


# How encoders are cut


@pytest.mark.parametrize("name", [*OURS, *TIMMS])
def test_blocks_hold_every_parameter_once_in_the_order_of_use(name):
    encoder = build(name)
    parts = blocks(encoder)
    listed = [id(p) for _, part in parts for p in part]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in encoder.parameters()}
    assert len({label for label, _ in parts}) == len(parts) > 2
    place = {id(p): i for i, (_, part) in enumerate(parts) for p in part}
    used = []

    def note(module: nn.Module, args) -> None:
        used.extend(place[id(p)] for p in module.parameters(recurse=False))

    for module in encoder.modules():
        if not [*module.children()]:
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, 3, 32, 32))
    assert used == sorted(used)
    assert set(used) == set(range(len(parts)))


def test_names_of_blocks():
    stages = [f"layer{i}" for i in (1, 2, 3, 4)]
    assert [label for label, _ in blocks(build("resnet_small"))] == ["conv1+bn1", *stages]
    two_each = [f"{stage}.{i}" for stage in stages for i in (0, 1)]
    assert [label for label, _ in blocks(build("resnet18"))] == ["conv1+bn1", *two_each]
    first, *rest = [label for label, _ in blocks(transformer())]
    assert first == "cls_token+pos_embed+patch_embed"
    assert rest == [*(f"blocks.{i}" for i in range(11)), "blocks.11+norm"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("resnet18", "resnet18"), ("vit_tiny", "vit_tiny_patch16_224")]
)
def test_the_cut_is_timms(ours, theirs):
    model = timm.create_model(theirs, num_classes=0)
    cut = timm.models.group_parameters(model, model.group_matcher(coarse=False))
    assert [names for _, names in named(build(ours))] == list(cut.values())


def test_a_norm_behind_the_last_block_belongs_to_it():
    *_, (label, names) = named(build("timm/test_convnext"))
    assert label.endswith("+head.norm")
    assert any(name.startswith("stages.3.") for name in names)


def test_an_encoder_of_unknown_blocks_is_told():
    with pytest.raises(ValueError, match="not known which blocks Toy is made of"):
        blocks(toy.Toy())
    encoder = small()
    encoder.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"each of its parameters once.* for scale$"):
        blocks(encoder)


# The training, written out


def rate(step: int, steps: int, warmup: float) -> float:
    risen = warmup * steps
    if step < risen:
        return (step + 1) / (risen + 1)
    return (1 + math.cos(math.pi * (step - risen) / (steps - risen))) / 2


def spelled_out(encoder: Encoder, steps: int, tuning: Tuning) -> tuple[nn.Module, list[float]]:
    """AdamW parameter by parameter; the encoder is trained in place."""
    tuned = Tuned(encoder, CLASSES, 0).train()
    owners = [m for m in tuned.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    matrices = {id(m.weight) for m in owners}
    parts = [part for _, part in blocks(encoder)] + [[*tuned.head.parameters()]]
    every = [p for part in parts for p in part]
    peaks = [
        tuning.lr * tuning.layer_decay ** (len(parts) - 1 - i)
        for i, part in enumerate(parts)
        for _ in part
    ]
    first, second = ([torch.zeros_like(p) for p in every] for _ in range(2))
    losses = []
    for step in range(steps):
        x, y = batches(step)
        logs = tuned(x).log_softmax(dim=1)
        smooth = tuning.label_smoothing
        target = (1 - smooth) * F.one_hot(y, CLASSES) + smooth / CLASSES
        loss = -(target * logs).sum(dim=1).mean()
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, every)
        norm = math.sqrt(sum(g.double().square().sum().item() for g in grads))
        cut = 1.0 if tuning.clip_norm is None else min(1.0, tuning.clip_norm / norm)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(every, grads, strict=True)):
                lr = peaks[i] * rate(step, steps, tuning.warmup)
                first[i] = 0.9 * first[i] + 0.1 * cut * g
                second[i] = 0.999 * second[i] + 0.001 * (cut * g) ** 2
                mean = first[i] / (1 - 0.9 ** (step + 1))
                size = (second[i] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                p -= lr * (tuning.weight_decay if id(p) in matrices else 0.0) * p
                p -= lr * mean / size
    return tuned, losses


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(),
        Tuning(lr=0.01, layer_decay=0.5, weight_decay=2.0, warmup=0.3, label_smoothing=0.2),
        Tuning(layer_decay=1.0, weight_decay=0.0, warmup=0.0, clip_norm=None),
        Tuning(weight_decay=5.0, clip_norm=0.01),
    ],
)
@pytest.mark.parametrize("kind", ["resnet_small", "vit", "timm"])
def test_training_is_adamw_with_rates_that_fall_towards_the_input(kind, tuning):
    makers = {"resnet_small": lambda: small("group"), "vit": transformer}
    make = makers.get(kind, lambda: build("timm/test_vit", SIZE))
    seen = []

    def tick(done: int, loss: torch.Tensor) -> None:
        assert loss.dtype == torch.float32
        assert not loss.requires_grad
        seen.append((done, loss.item()))

    tuned = finetune(make(), CLASSES, batches, 4, tuning, seed=0, device=CPU, tick=tick)
    expected, losses = spelled_out(make(), 4, tuning)
    assert [done for done, _ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss in seen] == pytest.approx(losses, rel=1e-4)
    moved = Tuned(make(), CLASSES, 0).state_dict()
    for name, value in tuned.state_dict().items():
        target = expected.state_dict()[name]
        step = (target - moved[name]).norm()
        assert (value - target).norm() <= 1e-2 * step, name


def test_the_head_starts_small_and_hangs_on_the_seed_alone():
    heads = []
    for seed in (0, 0, 1):
        torch.rand(1)
        before = torch.get_rng_state()
        head = Tuned(small(), 400, seed).head
        assert torch.equal(torch.get_rng_state(), before)
        assert not head.bias.any()
        assert head.weight.std().item() == pytest.approx(STD, rel=0.05)
        heads.append(head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_same_seed_same_bytes_with_paths_dropped_at_random():
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(noise)
        results.append(state(tune(transformer(drop_path=0.5), seed=seed)))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    assert not same(results[0], state(tune(transformer(drop_path=0.0))))


@pytest.mark.parametrize("training", [True, False])
def test_the_given_encoder_stays_as_it_is(training):
    encoder = small().train(training)
    encoder(batches(9)[0]).sum().backward()
    before, grads = state(encoder), [p.grad.clone() for p in encoder.parameters()]
    tuned = tune(encoder, blocks=1)
    assert same(state(encoder), before)
    assert encoder.training is training
    for p, grad in zip(encoder.parameters(), grads, strict=True):
        assert p.requires_grad
        assert torch.equal(p.grad, grad)
    own = {t.data_ptr() for t in encoder.state_dict().values()}
    assert not own & {t.data_ptr() for t in tuned.state_dict().values()}


# Blocks that are left out


@pytest.mark.parametrize("count", [0, 1, 3])
def test_blocks_left_out_keep_weights_and_statistics(count):
    encoder = small()
    tuned = tune(encoder, blocks=count)
    labels = [label for label, _ in blocks(encoder)]
    left_out = tuple(part for label in labels[: len(labels) - count] for part in label.split("+"))
    before = encoder.state_dict()
    for name, value in tuned.encoder.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith(left_out), name
    assert tuned.head.bias.any()
    assert not any(module.training for module in tuned.modules())


def test_blocks_left_out_drop_no_paths():
    results = [state(tune(transformer(drop_path=rate), blocks=0)) for rate in (0.0, 0.9)]
    assert same(*results)


def test_all_blocks_by_number_are_all():
    assert same(state(tune(small(), blocks=5)), state(tune(small(), blocks=None)))


def test_fixed_parameters_stay_fixed():
    encoder = transformer(frozen_patch=True)
    before = state(encoder)
    after = tune(encoder).encoder.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_the_head_alone_is_a_linear_probe_on_frozen_features():
    encoder = small().eval()
    tuned = tune(encoder, steps=4, blocks=0)
    head = nn.Linear(encoder.width, CLASSES)
    head.load_state_dict(Tuned(encoder, CLASSES, 0).head.state_dict())
    groups = [
        {"params": [head.weight], "weight_decay": 0.05},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    for step in range(4):
        x, y = batches(step)
        with torch.no_grad():
            features = encoder(x)
        optimizer.zero_grad()
        F.cross_entropy(head(features), y).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate(step, 4, 0.1)
        optimizer.step()
    torch.testing.assert_close(tuned.head.weight, head.weight)
    torch.testing.assert_close(tuned.head.bias, head.bias)


# What it gives, and what it refuses


def test_it_learns_what_new_pictures_show():
    tints = torch.eye(3)[:, :, None, None]

    def coloured(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        key = generator("coloured", step)
        y = torch.randint(3, (24,), generator=key)
        return tints[y] + 0.3 * torch.randn(24, 3, SIZE, SIZE, generator=key), y

    tuned = finetune(small(), 3, coloured, 40, Tuning(lr=3e-3), seed=0, device=CPU)
    x, y = coloured(1000)
    assert torch.equal(probabilities(tuned, [x]).argmax(dim=1), y)


def test_probabilities_are_the_softmax_in_eval_mode():
    tuned = tune(small()).train()
    before = state(tuned)
    x = torch.cat([batches(step)[0] for step in (7, 8)])
    found = probabilities(tuned, x.split(5))
    assert same(state(tuned), before)
    assert tuned.training
    assert found.shape == (2 * BATCH, CLASSES)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    tuned.eval()
    with torch.no_grad():
        logits = tuned.head(tuned.encoder(x)).double()
    expected = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(probabilities(tuned, [x]), found)
    with pytest.raises(ValueError, match="no image"):
        probabilities(tuned, [])


def test_autocast_keeps_the_loss_and_the_weights_in_float32():
    seen = {}
    for amp in (None, torch.bfloat16):
        kept = []
        tuned = finetune(
            *(small(), CLASSES, batches, 3, Tuning()),
            seed=0,
            device=CPU,
            amp=amp,
            tick=lambda done, loss, kept=kept: kept.append(loss),
        )
        assert {p.dtype for p in tuned.parameters()} == {torch.float32}
        seen[amp] = torch.stack(kept)
        assert seen[amp].dtype == torch.float32
    assert not torch.equal(seen[None], seen[torch.bfloat16])
    torch.testing.assert_close(seen[None], seen[torch.bfloat16], rtol=0.02, atol=0)


@pytest.mark.parametrize(("at", "steps", "told"), [(0, 3 * FETCH, FETCH), (2, 3, 3)])
def test_a_loss_that_is_not_finite_ends_it(at, steps, told):
    def broken(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batches(step)
        return (x / 0 if step == at else x), y

    done = []
    with pytest.raises(Problem, match=f"not finite at or before step {told}$") as caught:
        finetune(
            *(small(), CLASSES, broken, steps, Tuning()),
            seed=0,
            device=CPU,
            tick=lambda count, loss: done.append(count),
        )
    assert caught.value.exit == Exit.NUMERICS
    assert "learning rate below 0.001" in str(caught.value.suggestion)
    assert done[-1] == told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", value) for value in (0.0, -1.0, math.inf, math.nan)),
        *(("layer_decay", value) for value in (0.0, 1.1, math.nan)),
        *(("weight_decay", value) for value in (-0.1, math.inf, math.nan)),
        *(("warmup", value) for value in (-0.1, 1.0, math.nan)),
        *(("label_smoothing", value) for value in (-0.1, 1.0)),
        *(("clip_norm", value) for value in (0.0, math.nan)),
        ("blocks", -1),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} cannot be {value}$"):
        Tuning(**{name: value})


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="last 6 of 5 blocks"):
        tune(small(), blocks=6)
    with pytest.raises(ValueError, match="for 0 steps"):
        tune(small(), steps=0)
    with pytest.raises(ValueError, match="cannot train 0 classes"):
        finetune(small(), 0, batches, 1, Tuning(), seed=0, device=CPU)
