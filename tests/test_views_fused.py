"""`views.color: fused`: its kernel against the exact colours, and what a machine without it says.

Triton's interpreter runs the kernel without a GPU, but only where Triton was imported for it. So
this file is run as a program once, with all cases, and writes what the kernel made of them.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import clctl.views
from clctl.commands import _launch
from clctl.console import Exit, Problem
from clctl.images import Images
from clctl.recipe.identity import digest, weights_part
from clctl.recipe.policy import Blur, Crop, Jitter, Solarize, ViewGroup, Views
from clctl.recipe.read import packaged, read
from clctl.rng import generator
from clctl.views import apply, color
from clctl.views.draw import BRIGHTNESS, CONTRAST, HUE, SATURATION, Drawn, draw

triton = pytest.importorskip("triton", reason="Triton comes with torch for CUDA alone")
from clctl.views import fused  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ORDERS = torch.tensor(list(itertools.permutations(range(4))))
STILL = torch.tensor([1.0, 1.0, 1.0, 0.0])
STRONG = Jitter(p=1, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5)
BUSY = ViewGroup(
    count=2, crop=Crop(), jitter=STRONG, grayscale=0.3, blur=Blur(), solarize=Solarize(p=0.3)
)
CASES = ("orders", "some", "whole", "large", "flat", "one-by-one", "single", "grey")


class Machine:
    """As much of one as is asked before anything is built."""

    device = CUDA


def parameters(order: Tensor, factors: Tensor, grayscale: Tensor) -> Drawn:
    """Colours alone."""
    n = len(order)
    nothing = torch.zeros(n)
    return Drawn(
        box=torch.zeros(n, 4).long(),
        affine=None,
        flips=torch.zeros(n, 2).bool(),
        factors=factors,
        order=order,
        grayscale=grayscale,
        sigma=nothing,
        solarize=nothing.bool(),
    )


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator("fused", *shape))


def strong(n: int) -> Tensor:
    """Factors of a strong jitter: [n, 4]."""
    factors = 2 * noise(n, 4)
    factors[:, HUE] = factors[:, HUE] / 2 - 0.5
    return factors


def flat_images() -> Tensor:
    """Images with no hue, with ties between channels, and with next to no chroma: 8 x 8."""
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    near = 0.5 + torch.tensor([[0.0, 0.0, 0.0], [1e-7, 0.0, 0.0], [0.0, 6e-8, 1e-6], [0, 0, 0.2]])
    return torch.cat([corners, near])[:, :, None, None].repeat(1, 1, 8, 8)


def case(name: str) -> tuple[Tensor, Drawn]:
    """Images float32 [n, C, H, W] and what is to be done with them."""
    if name == "orders":  # in less than a block of pixels
        return noise(24, 3, 17, 17), parameters(ORDERS, strong(24), torch.arange(24) % 4 == 1)
    if name == "some":  # each set of operations that do something, in part of a second block
        on = torch.tensor(list(itertools.product((False, True), repeat=5)))
        order = ORDERS[torch.arange(len(on)) * 7 % 24]
        factors = torch.where(on[:, :4], strong(len(on)), STILL)
        return noise(len(on), 3, 34, 34), parameters(order, factors, on[:, 4])
    if name == "whole":  # blocks, one and nine
        return noise(2, 3, 32, 32), parameters(ORDERS[6:8], strong(2), torch.zeros(2).bool())
    if name == "large":
        return noise(2, 3, 96, 96), parameters(ORDERS[8:10], strong(2), torch.zeros(2).bool())
    if name == "flat":
        view = flat_images().repeat(2, 1, 1, 1)
        return view, parameters(ORDERS, strong(24), torch.arange(24) % 5 == 0)
    if name == "one-by-one":  # the others must not be seen in an image: reversed, and alone
        view, drawn = case("orders")
        rows = torch.arange(8).flip(0)
        return view[rows], drawn.rows(rows)
    if name == "single":
        view, drawn = case("orders")
        return view[5:6], drawn.rows(slice(5, 6))
    return noise(24, 1, 16, 16), parameters(ORDERS, strong(24), torch.arange(24) % 2 == 0)


def source(n: int) -> Images:
    """Pictures of noise."""
    return Images((255 * noise(n, 3, 12, 12)).byte(), torch.full((n, 2), 12))


def policy(name: str, group: ViewGroup = BUSY) -> Views:
    return Views.model_validate({"size": 8, "color": name, "groups": (group,)})


def made(name: str) -> Tensor:
    """Views of both passes over a batch that takes several chunks."""
    views = apply.make(source(9), policy(name), generator("made"), CPU).views
    return torch.cat(views).contiguous()


def kernel(name: str, device: torch.device) -> Tensor:
    """What the kernel makes of a case."""
    view, drawn = case(name)
    view = view.to(device, copy=True)
    fused.recolor_(view, drawn)
    return view.cpu()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    file = tmp_path_factory.mktemp("fused") / "views.safetensors"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, str(Path(__file__)), str(file)]
    subprocess.run(command, env=environment, check=True, timeout=200)
    return load_file(file)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_gives_the_exact_colours(name, interpreted):
    view, drawn = case(name)
    expected = view.clone()
    color.recolor_(expected, drawn)
    torch.testing.assert_close(interpreted[name], expected, rtol=0, atol=1e-5)
    assert (expected - view).abs().amax((1, 2, 3)).median() > 0.1


def test_the_order_of_each_image_is_its_own(interpreted):
    view, drawn = case("orders")
    other = view.clone()
    color.recolor_(other, parameters(ORDERS[:1].expand(24, 4), drawn.factors, drawn.grayscale))
    changed = (other - interpreted["orders"]).abs().amax((1, 2, 3)) > 0.01
    assert changed.sum() > 12


def test_an_image_does_not_depend_on_the_others(interpreted):
    assert torch.equal(interpreted["one-by-one"].flip(0), interpreted["orders"][:8])
    assert torch.equal(interpreted["single"], interpreted["orders"][5:6])


def test_an_image_without_colours_to_change_keeps_its_bits(interpreted):
    view, drawn = case("some")
    still = (drawn.factors == STILL).all(1) & ~drawn.grayscale
    assert still.sum() == 1
    assert torch.equal(interpreted["some"][still], view[still])


def test_views_in_several_chunks_are_exact_ones(interpreted):
    """With blur and solarize, whose images lie elsewhere in a chunk than in exact's."""
    torch.testing.assert_close(interpreted["made"], made("exact"), rtol=0, atol=1e-4)


def test_the_plan_of_an_image():
    order = torch.tensor([[HUE, CONTRAST, BRIGHTNESS, SATURATION]]).repeat(2, 1)
    factors = torch.tensor([[1.5, 0.5, 1.0, 0.25], [1.0, 1.0, 0.5, 0.0]])
    plan = fused.plan(parameters(order, factors, torch.tensor([True, False]))).tolist()
    nothing = fused.NOTHING
    first = [HUE, 0.25, CONTRAST, 0.5, BRIGHTNESS, 1.5, nothing, 1.0, SATURATION, 0.0]
    assert plan[0] == [1, *first]
    assert plan[1][0] == -1
    assert plan[1][1::2] == [nothing, nothing, nothing, SATURATION, nothing]
    assert plan[1][8] == 0.5


def test_all_rows_are_one_part_with_the_like_side_by_side():
    drawn = draw(BUSY, torch.full((200, 2), 12), generator("alike"))
    (rows,) = fused.alike(drawn)
    assert rows.sort().values.tolist() == list(range(200))
    for chosen in (drawn.sigma > 0, drawn.solarize):
        steps = chosen[rows].int().diff()
        assert 1 <= steps.abs().sum() <= 2


@pytest.mark.parametrize("size", [32 * 32, 17 * 17])
@pytest.mark.parametrize("generation", [80, 90])
def test_the_kernel_compiles_for_a_gpu(generation, size, tmp_path, monkeypatch):
    """The interpreter takes programs that the compiler refuses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kinds = {"view": "*fp32", "steps": "*fp32", "pixels": "i32"}
    fixed = {"STEPS": fused.STEPS, "BLOCK": fused.BLOCK}
    # What a launch says of its arguments: addresses of tensors are divisible, sizes may be.
    known = [i for i, divides in enumerate((True, True, size % 16 == 0)) if divides]
    attributes = {(i,): [["tt.divisibility", 16]] for i in known}
    constant = dict.fromkeys(fixed, "constexpr")
    program = ASTSource(fused.recolor, {**kinds, **constant}, fixed, attributes)
    target = GPUTarget("cuda", generation, 32)
    built: Any = triton.compile(program, target=target, options={"num_warps": fused.WARPS})
    assert built.asm["cubin"]
    assert f".target sm_{generation}" in built.asm["ptx"]
    assert ("ld.global.v4" in built.asm["ptx"]) == (size % 16 == 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_gives_the_exact_colours_on_a_gpu(name):
    view, drawn = case(name)
    color.recolor_(view, drawn)
    torch.testing.assert_close(kernel(name, CUDA), view, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_processor_makes_the_very_bits_of_exact(channels):
    pictures = Images(source(9).canvas[:, :channels], torch.full((9, 2), 12))
    exact, ours = (
        apply.make(pictures, policy(name), generator("bits"), CPU).views
        for name in ("exact", "fused")
    )
    assert all(torch.equal(a, b) for a, b in zip(exact, ours, strict=True))
    assert apply.colors_on(policy("fused"), CPU) is color


def test_a_gpu_without_triton_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.delattr(clctl.views, "fused", raising=False)
    monkeypatch.delitem(sys.modules, "clctl.views.fused")
    monkeypatch.setitem(sys.modules, "triton", None)
    apply._fused.cache_clear()
    assert apply.colors_on(policy("exact"), CUDA) is color
    recipe, split, where = read(packaged()["simclr"], ["views.color=fused"]), None, Machine()
    with pytest.raises(Problem, match=r"views\.color is fused, but .*: import of triton") as error:
        _launch.parts(recipe, split, where)  # type: ignore[arg-type]
    assert (error.value.exit, error.value.code) == (Exit.RESOURCES, "views.no-triton")
    assert str(error.value.suggestion).startswith("--set views.color=exact")


def test_where_triton_fails_its_own_words_are_said():
    apply._fused.cache_clear()
    with pytest.raises(Problem, match=r"Triton does not work here: .") as error:
        apply._fused(CPU)  # it has no driver for a processor
    assert error.value.code == "views.no-triton"
    assert "\n" not in error.value.message


def test_fused_is_a_run_of_its_own():
    """And exact runs stay what they were before the key was there."""
    path = packaged()["simclr"]
    given = ([], ["views.color=exact"], ["views.color=fused"])
    parts = [weights_part(read(path, changes), "f", None) for changes in given]
    assert "color" not in parts[0]["views"]
    assert digest(parts[0]) == digest(parts[1]) != digest(parts[2])


def main(file: str) -> None:
    """Write what the kernel makes of all cases, and of views with `color: fused`."""
    views = {name: kernel(name, CPU) for name in CASES}
    apply.colors_on = lambda policy, device: fused  # type: ignore[assignment]
    apply._chunk = lambda images, size: 5  # type: ignore[assignment]
    save_file({**views, "made": made("fused")}, file)


if __name__ == "__main__":
    main(sys.argv[1])
