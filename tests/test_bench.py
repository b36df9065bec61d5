"""clctl bench: what it says adds up, names the slow stage, and counts what ranks send."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import toy
from torch import nn
from torch.multiprocessing.spawn import spawn

from clctl.commands import (
    _bench_batch,
    _bench_peaks,
    _bench_ranks,
    _bench_stages,
    _memory,
    _training,
    bench,
)
from clctl.commands._bench_stages import STAGES, Loop
from clctl.commands._bench_words import bottleneck
from clctl.commands._setup import Machine
from clctl.console import Exit, Problem, Talk
from clctl.encoders.resnet_small import ResNetSmall
from clctl.engine import train
from clctl.method import Step
from clctl.nn.norm import synchronised

CPU = torch.device("cpu")
SMALL = ("--set", "encoder.width=8", "--set", "train.precision=fp32", "--steps", "3")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Small peaks and few batches, in an empty folder."""
    monkeypatch.setattr(_bench_peaks, "SECONDS", 0.01)
    monkeypatch.setattr(_bench_peaks, "SIDE", {"cpu": 256})
    monkeypatch.setattr(_bench_peaks, "COPIED", {"cpu": 2**20})
    monkeypatch.setattr(_bench_batch, "around", lambda batch, images: [2 * batch])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_document_adds_up_and_nothing_is_written(clctl, quick):
    answer = clctl("bench", "simclr", *SMALL, "--json")
    assert answer.code == 0, answer.err
    found = answer.document
    assert found["schema"] == "clctl/bench/1"
    rate, step = found["images_per_second"], found["seconds_per_step"]
    assert rate == pytest.approx(64 / step)  # an image counts once, whatever its views
    stages = dict(found["stages"])
    together = stages.pop("together")
    assert tuple(stages) == STAGES
    assert together["seconds_per_step"] == step
    for stage in stages.values():
        if stage["images_per_second"] is not None:
            assert stage["images_per_second"] * stage["seconds_per_step"] == pytest.approx(64)
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert sum(s["seconds_per_step"] for s in stages.values()) == pytest.approx(step, rel=0.35)
    for name in ("views", "forward", "backward", "optimizer"):
        assert stages[name]["seconds_per_step"] > 1e-5
    assert 0 <= found["waiting"] < 1
    assert found["memory"]["rss_bytes"] > 2**26
    assert found["memory"]["cuda_bytes"] is None
    sums, peaks = found["arithmetic"], found["peaks"]
    assert sums["flops"] == pytest.approx(sums["flops_per_image"] * rate)
    assert sums["of_matmul"] == pytest.approx(sums["flops"] / peaks["matmul_flops"])
    assert sums["of_copy"] * peaks["copy_bytes_per_second"] == pytest.approx(
        sums["bytes_per_second"]
    )
    assert found["batch"]["images_per_second"]["64"] == pytest.approx(rate)
    assert set(found["batch"]["images_per_second"]) == {"64", "128"}
    assert set(found["startup"]) == {"import", "data", "build", "first_step", "compile"}
    assert found["ranks"] is None
    assert f"{100 * found['slowest']['share']:.0f} % of the step" in found["bottleneck"]
    assert list(quick.iterdir()) == []


def test_a_slow_stage_of_views_is_named(clctl, quick, monkeypatch):
    made = _training.make

    def slow(*given):
        time.sleep(0.15)
        return made(*given)

    monkeypatch.setattr(_training, "make", slow)
    answer = clctl("bench", "simclr", *SMALL)
    last = answer.out.splitlines()[-1]
    assert last.startswith("views take ")
    share = int(last.split()[2])
    assert 40 < share <= 100
    row = next(line.split() for line in answer.out.splitlines() if line.startswith("views"))
    assert float(row[1]) >= 150
    assert int(row[3]) == share
    assert "#" * (28 * share // 100 - 1) in row[-1]


def test_every_stage_gets_its_own_time():
    method = toy.method("byol")
    wait = {"data": 0.01, "views": 0.02, "backward": 0.03, "optimizer": 0.04, "after": 0.05}

    def held(name, call):
        def later(*given):
            time.sleep(wait[name])
            return call(*given)

        return later

    plan = toy.plan(40)
    inner = iter(plan.batches(0))
    batches = lambda start: iter(held("data", lambda: next(inner)), None)  # noqa: E731
    changed = {"batches": batches, "views": held("views", plan.views)}
    optimizer = torch.optim.SGD(method.groups(), lr=0.1)
    optimizer.register_step_pre_hook(held("optimizer", lambda *_: None))
    method.after_step = held("after", method.after_step)
    method.projector.register_full_backward_pre_hook(held("backward", lambda *_: None))
    loop = Loop(type(plan)(**{**vars(plan), **changed}), method, optimizer, 3)
    loop.step()
    times = loop.times(2)
    for name, seconds in wait.items():
        assert all(found >= seconds for found in times.stages[name]), name
    assert min(times.together) >= sum(wait.values())
    shares = [w * t for w, t in zip(times.waited, times.together, strict=True)]
    assert min(shares) >= wait["data"]


@pytest.mark.parametrize("name", ["moco_v2", "swav"])
def test_a_timed_loop_trains_as_the_engine_does(name):
    sizes = toy.SIZES.get(name, (8, 8))
    states = []
    for timed in (False, True):
        method = toy.method(name)
        optimizer = torch.optim.SGD(method.groups(), lr=0.1)
        if timed:
            loop = Loop(toy.plan(5, sizes=sizes), method, optimizer, 5)
            loop.step()
            loop.times(4)
        else:
            assert len(list(train(toy.plan(5, sizes=sizes), method, optimizer))) == 5
        states.append(method.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_the_spread_of_steps():
    assert _bench_stages.spread([2.0] * 5) == 0
    assert _bench_stages.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


def test_slow_steps_are_timed_less_often():
    assert [bench._few(step, CPU) for step in (0.001, 1.0, 100.0)] == [20, 15, 3]


def test_operations_of_resnet_small_are_those_of_its_convolutions():
    def convolution(inputs, outputs, kernel, side):
        return 2 * inputs * outputs * kernel**2 * side**2

    by_hand = convolution(3, 16, 3, 16) + 2 * convolution(16, 16, 3, 16)
    for wide, side in ((32, 8), (64, 4), (128, 2)):
        by_hand += convolution(wide // 2, wide, 3, side) + convolution(wide, wide, 3, side)
        by_hand += convolution(wide // 2, wide, 1, side)  # the shortcut
    encoder, images = ResNetSmall(16, "batch"), torch.randn(6, 3, 32, 32)
    found = _bench_peaks.arithmetic(lambda: Step(encoder(images).mean()), 6)
    assert found["forward_flops_per_image"] == pytest.approx(by_hand, rel=0.01)
    first = convolution(3, 16, 3, 16)  # nothing asks for the gradient of the pictures
    assert found["backward_flops_per_image"] == pytest.approx(2 * by_hand - first, rel=0.01)
    assert found["flops_per_image"] == pytest.approx(3 * by_hand - first, rel=0.01)


def test_bytes_of_one_layer_by_hand():
    layer, x = nn.Linear(8, 4, bias=False), torch.ones(16, 8)
    found = _bench_peaks.arithmetic(lambda: Step((layer(x)).sum()), 16)
    product, total, spread = 16 * 8 + 8 * 4 + 16 * 4, 16 * 4 + 1, 0
    weight = 16 * 4 + 16 * 8 + 4 * 8  # its gradient: one more product
    least = 4 * (product + total + spread + weight)
    assert least <= 16 * found["bytes_per_image"] <= 1.5 * least
    assert found["kept_bytes_per_image"] == 8 * 4  # the pictures; the weight is no batch's


def test_peaks_shrink_until_they_fit():
    def measure(size):
        if size > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return 0.5

    assert _bench_peaks._fitting(4096, measure) == (512, 0.5)
    assert _bench_peaks._fitting(4096, lambda size: measure(4096)) is None


HERE = Machine(CPU, None, "")


def test_batches_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(_bench_batch, "_free", lambda device: 10**6)

    def start(size, steps):
        if size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        method = toy.method("simclr")
        plan = toy.plan(steps)

        def views(raw, step):
            time.sleep(0.02)
            return plan.views(raw, step)

        slow = type(plan)(**{**vars(plan), "views": views})
        return Loop(slow, method, torch.optim.SGD(method.groups(), lr=0.1), steps)

    found = _bench_batch.sweep(64, 1e5, 1000, 1.0, start, HERE, Talk(quiet=True))
    assert set(found["images_per_second"]) == {"16", "32", "64"}
    assert found["left_out"] == dict.fromkeys(("128", "256"), "does not fit into memory")
    assert found["enough"] == 64
    assert 0 < found["images_per_second"]["16"] < 16 / 0.02

    def refused(size, steps):
        raise Problem("no such batch", Exit.RECIPE, "x")

    found = _bench_batch.sweep(64, 1e5, 1000, 1.0, refused, HERE, Talk(quiet=True))
    assert set(found["left_out"].values()) == {"no such batch"}
    large = _bench_batch.sweep(64, 1e5, 1000, 1e5, refused, HERE, Talk(quiet=True))
    assert set(large["left_out"].values()) == {"would need more than half of the free memory"}
    slow = _bench_batch.sweep(64, 1.0, 1000, 1.0, refused, HERE, Talk(quiet=True))
    assert slow["left_out"]["256"] == "would take 1024 s"
    assert slow["enough"] == 64


def test_batches_around():
    assert _bench_batch.around(64, 1437) == [16, 32, 128, 256]
    assert _bench_batch.around(4, 10) == [2, 8]


def a_document(slow: str = "model", **changes: object) -> dict:
    shares = {**dict.fromkeys(STAGES, 0.05), "forward": 0.1, "backward": 0.1}
    shares["backward" if slow == "model" else slow] = 0.8
    return {
        "stages": {name: {"share": share} for name, share in shares.items()},
        "device": "cpu, 2 threads, fp32",
        "threads": 2,
        "images_per_second": 100.0,
        "batch_size": 64,
        "batch": None,
        "ranks": None,
        "peaks": {"precision": "fp32"},
        "arithmetic": {"of_matmul": 0.1, "of_copy": 0.1},
        **changes,
    }


LARGER = {"images_per_second": {"64": 100.0, "256": 150.0}, "enough": 256}


@pytest.mark.parametrize(
    ("slow", "changes", "cores", "words"),
    [
        ("views", {}, 2, "views take 80 % of the step on two threads: a GPU makes them"),
        ("views", {}, 4, "OMP_NUM_THREADS=4 would use all 4 cores"),
        ("views", {"device": "cuda:0, H100, bf16"}, 16, "on cuda:0: fewer or smaller views"),
        ("data", {}, 2, "fetching the pictures takes 80 % of the step on two threads: keep the"),
        ("optimizer", {}, 2, "a larger train.batch_size pays it less often"),
        ("after", {}, 2, "what the method does after the update takes 80 %"),
        ("model", {}, 2, "(forward and backward) takes 90 % of the step on two threads: it reach"),
        ("model", {"batch": LARGER}, 2, "--set train.batch_size=256 gives 50 % more images/s"),
        ("model", {"device": "cuda:0, H100, fp32"}, 2, "train.precision=bf16"),
        ("model", {"arithmetic": {"of_matmul": 0.5, "of_copy": 0.1}}, 2, "only a smaller encoder"),
        ("model", {"arithmetic": {"of_matmul": None, "of_copy": 0.6}}, 2, "held up by memory"),
        ("model", {"ranks": {"share": 0.45}}, 2, "what ranks send each other takes 45 %"),
        ("views", {"ranks": {"share": 0.45}}, 2, "views take 80 %"),
    ],
)
def test_the_sentence_names_the_slowest_and_what_to_change(slow, changes, cores, words):
    name, share, sentence = bottleneck(a_document(slow, **changes), cores)
    assert words in sentence
    assert "\n" not in sentence
    assert f"{100 * share:.0f} % of the step" in sentence
    assert name == ("ranks" if words.startswith("what ranks") else slow)


def test_a_trace_is_the_one_file_that_is_written(clctl, quick):
    answer = clctl("bench", "simclr", *SMALL, "--profile", "new/trace.json", "--quiet")
    assert answer.code == 0, answer.err
    assert float(answer.out) > 0
    assert answer.err == ""
    assert [p.name for p in quick.rglob("*")] == ["new", "trace.json"]
    events = json.loads((quick / "new" / "trace.json").read_text())["traceEvents"]
    assert any("convolution" in event.get("name", "") for event in events)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("simcrl",), Exit.RECIPE, "simclr"),
        (("simclr", "--steps", "2"), Exit.USAGE, "--steps"),
        (("simclr", "--profile", "trace.txt"), Exit.USAGE, "--profile trace.json"),
        (("simclr", "--profile", "."), Exit.USAGE, "--profile trace.json"),
        (("simclr", "--set", "train.batch_size=5000"), Exit.DATA, "do not fill one batch"),
        (("simclr", "--set", "train.bach_size=5"), Exit.RECIPE, "batch_size"),
        (("simclr", "--data", "no-such-folder"), Exit.DATA, "no-such-folder"),
        (("simclr", "--device", "tpu"), Exit.USAGE, "tpu"),
    ],
)
def test_refusals(clctl, quick, words, code, said):
    answer = clctl("bench", *words)
    assert answer.code == code
    assert said in answer.err
    assert answer.out == ""
    assert list(quick.iterdir()) == []


def test_a_want_of_memory_is_told_with_the_batch_that_fits(clctl, quick, monkeypatch):
    def short(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Loop, "times", short)
    monkeypatch.setattr(_memory, "largest", lambda *given: 32)
    answer = clctl("bench", "simclr", *SMALL)
    assert answer.code == Exit.RESOURCES
    assert "--set train.batch_size=32" in answer.err


def one_of_two(rank: int, folder: str) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    method = synchronised(toy.method("simclr"))
    loop = Loop(toy.plan(9), method, torch.optim.SGD(method.groups(), lr=0.1), 9)
    for _ in range(3):
        loop.step()
    calls = _bench_ranks.heard(loop)
    seconds = _bench_ranks.replayed(calls, CPU)
    loop.close()
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    about = _bench_ranks.described(calls, seconds, 2 * seconds, toy.BATCH)
    Path(folder, str(rank)).write_text(json.dumps({**about, "trained": trained}))
    dist.destroy_process_group()


def test_what_two_ranks_send_is_what_simclr_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn(one_of_two, (str(tmp_path),), nprocs=2)
    found, other = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert found["collectives"] == other["collectives"]
    assert found["count"] == 2
    assert found["share"] == pytest.approx(0.5)
    assert found["seconds_per_step"] > 0
    assert found["gradient_bytes"] == 4 * found["trained"]
    by = {(one["name"], one["for"]): one for one in found["collectives"]}
    rows = by["all_gather", "losses.nt_xent"]
    assert rows["calls"] == 2
    assert rows["bytes"] == 2 * toy.BATCH * 16 * 4  # two views, 16 numbers each in fp32
    norms = by["all_gather", "nn.norm"]
    channels = 8 + 32  # of the encoder's and of the projector's batch norm
    assert norms["calls"] == 2 * 2
    assert norms["bytes"] == 2 * 2 * channels * 4  # mean and variance of two views
    back = by["all_reduce", _bench_ranks.BACKWARD]
    assert back["calls"] == rows["calls"] + norms["calls"]
    assert back["bytes"] == 2 * (rows["bytes"] + norms["bytes"])  # the gradient of all ranks' rows
    assert found["bytes_per_step"] == sum(one["bytes"] for one in found["collectives"])


@pytest.mark.soak
def test_the_first_of_two_ranks_alone_talks(tmp_path):
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*program, "clctl", "bench", "simclr", *SMALL, "--json", "-q"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"]["count"] == 2
    assert found["ranks"]["images_each"] == 32
    assert found["batch"] is None
    assert list(tmp_path.iterdir()) == []
