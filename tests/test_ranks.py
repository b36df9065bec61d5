"""Several processes of one run: how they know, what they share, and what happens when one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import toy
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.multiprocessing.spawn import spawn

from clctl.commands import _ranks as ranks
from clctl.commands._place import Place, device, place, wanted
from clctl.commands._ranks import together
from clctl.commands._torchrun import _code
from clctl.console import Exit, Problem
from clctl.data.feed import Feed
from clctl.distributed import Agreement, world
from clctl.engine import train
from clctl.evaluate.features import extract
from clctl.images import Images, Split
from clctl.method import Batch
from clctl.nn.norm import synchronised
from clctl.store import files

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "29",
}
STEP = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-07,12],big1",
    "SLURM_JOB_ID": "77",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None),  # somebody's own variables
        (TORCHRUN, Place(3, 8, 1, "a:29")),
        ({**STEP, **TORCHRUN}, Place(3, 8, 1, "a:29")),  # torchrun inside of a job step
        (STEP, Place(3, 8, 1, "gpu03:20077")),
        ({**STEP, "SLURM_STEP_NODELIST": "solo"}, Place(3, 8, 1, "solo:20077")),
        ({**STEP, "MASTER_ADDR": "m", "MASTER_PORT": "5"}, Place(3, 8, 1, "m:5")),
        ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        # An interactive allocation: SLURM says how many tasks there could be, but this is none.
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "gpu[03-07]"}, None),
    ],
)
def test_ranks_are_read_where_ranks_were_started(environment, expected):
    assert place(environment) == expected


@pytest.mark.parametrize("wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}])
def test_ranks_that_cannot_be(wrong):
    with pytest.raises(Problem, match="the environment says") as found:
        place({**TORCHRUN, **wrong})
    assert found.value.exit == Exit.USAGE


def test_devices_of_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    counts = {"all": 4, "cuda:0,1": 2, "cuda:1,cuda:3": 2, "auto": 0, "cuda:2": 0, "cpu": 0}
    assert {choice: wanted(choice) for choice in counts} == counts
    assert [device(choice, 1) for choice in ("all", "auto", "cuda:1,cuda:3", "cpu")] == [
        *("cuda:1", "cuda:1", "cuda:3", "cpu"),
    ]
    with pytest.raises(Problem, match="every rank on one GPU"):
        device("cuda:0", 1)
    for choice, exit in {"cuda:0,x": 2, "cuda:0,9": 8}.items():
        with pytest.raises(Problem) as found:  # before any process is started
            wanted(choice)
        assert found.value.exit == exit
    with pytest.raises(Problem, match=r"cuda:4, for rank 4 .* sees 4 CUDA") as found:
        device("cuda", 4)  # torchrun started more ranks than there are GPUs
    assert found.value.exit == Exit.RESOURCES
    with pytest.raises(Problem, match="names no GPU for rank 2"):
        device("cuda:0,1", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [wanted(choice) for choice in ("all", "cpu,cpu")] == [0, 0]
    assert [device(choice, 1) for choice in ("all", "auto", "cpu")] == ["all", "auto", "cpu"]
    for choice in ("cuda", "cuda:0,1"):
        with pytest.raises(Problem, match="sees 0 CUDA devices"):
            device(choice, 0)


def test_several_processors_are_no_device(clctl):
    answer = clctl("pretrain", "simclr", "--device", "cpu,cpu", "--dry-run")
    assert (answer.code, "cpu,cpu is none of auto, cpu" in answer.err) == (2, True)


def test_the_time_that_ranks_wait_is_read_with_its_name(monkeypatch):
    for name, value in {**TORCHRUN, ranks.TIMEOUT: "soon"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Problem, match=f"{ranks.TIMEOUT}=soon is not a duration"), together("cpu"):
        pass


def test_a_lost_rank_is_told_to_stdout_once(capsys):
    codes = {0: Exit.RANK, 1: -signal.SIGKILL}  # the launcher ends one that hung
    ends = {n: ProcessFailure(n, 7, int(code), "") for n, code in codes.items()}
    assert _code(ends) == Exit.RANK  # the first rank has told it already
    assert "rank 1 (process 7) was ended by SIGKILL" in capsys.readouterr().err
    del ends[0]
    with pytest.raises(Problem, match=r"rank 1 .* ended by SIGKILL"):
        _code(ends)


def a_split(count: int = 22) -> Split:
    noise = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = Images(noise.to(torch.uint8), torch.tensor([[8, 8]]).expand(count, 2))
    return Split("train", images, torch.arange(count) % 3, [str(i) for i in range(count)])


def trained() -> dict[str, Tensor]:
    """Weights after steps of the engine itself, on what a feed gives; features of an odd number."""
    split, rank = a_split(), world()[0]
    feed = Feed(split, 8, 0, torch.device("cpu"), uses_labels=False)

    def views(raw: tuple[Images, None], step: int) -> Batch:
        pictures = raw[0].canvas.double() / 255
        rows = torch.arange(8)[feed.part, None, None, None]
        return Batch((pictures + rows, pictures * (step + 1)))

    method = synchronised(toy.method("simclr")).double()
    plan = toy.plan(5)
    plan = type(plan)(**{**vars(plan), "batches": feed.batches, "views": views, "per_epoch": 2})
    optimizer = torch.optim.SGD(method.groups(), lr=0.1)
    for tick in train(plan, method, optimizer):
        seen = tick.whole().fetch()
    agree = Agreement()
    agreed = [agree(rank, 5), agree(0, 0)]
    agree.close()
    features = extract(method.encoder, split.images, lambda x: x.canvas.double(), feed._device, 3)
    return {
        **{key: value.clone() for key, value in method.state_dict().items()},
        "loss": torch.tensor(seen["loss"]),
        "spread": torch.tensor(seen["spread"]),
        "features": features,
        "agreed": torch.tensor(agreed),
    }


def one_of_two(rank: int, folder: str) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    save_file({k: v.contiguous() for k, v in trained().items()}, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_the_engine_does_on_two_ranks_what_it_does_on_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn(one_of_two, (str(tmp_path),), nprocs=2)
    whole = trained()
    assert whole.pop("agreed").tolist() == [[0, 5], [0, 0]]
    for rank in range(2):
        part = load_file(tmp_path / str(rank))
        assert part.pop("agreed").tolist() == [[0, 0], [1, 5]]  # what was raised one call before
        for key, value in whole.items():
            torch.testing.assert_close(part[key], value, rtol=1e-6, atol=1e-9, msg=key)


def test_a_batch_that_ranks_cannot_share(monkeypatch):
    monkeypatch.setattr("clctl.data.feed.world", lambda: (1, 3))
    with pytest.raises(Problem, match="3 equal parts") as found:
        Feed(a_split(), 8, 0, torch.device("cpu"), uses_labels=False)
    assert found.value.suggestion == "--set train.batch_size=6"


def test_a_rank_that_follows_leaves_the_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "muted", tmp_path / "run")
    files.make(tmp_path / "run")
    files.write(tmp_path / "run" / "x", b"1")
    files.append(tmp_path / "run" / "log", b"1")
    assert list(tmp_path.iterdir()) == []
    files.write(tmp_path / "beside", b"1")
    assert (tmp_path / "beside").exists()


LAUNCH = """
import sys
from clctl.commands._torchrun import launch
from clctl.console import Problem
try:
    sys.exit(launch(sys.argv[1:], 2))
except Problem as problem:
    print(problem.text(), file=sys.stderr)
    sys.exit(int(problem.exit))
"""


class Launched:
    """`clctl pretrain` on two ranks of this machine, as --device all starts them."""

    def __init__(self, home: Path, *changes: str) -> None:
        sets = [word for change in changes for word in ("--set", change)]
        words = ["pretrain", "simclr", "-o", "run", "--device", "cpu", *sets]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CLCTL_RANK_TIMEOUT": "60s"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        program = [sys.executable, "-c", LAUNCH, *words]
        self.process = subprocess.Popen(program, cwd=home, env=environment, **pipes)
        self.log = home / "run" / "metrics.jsonl"

    def until(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.log.exists() and len(self.log.read_text().splitlines()) >= step:
                return
            time.sleep(0.1)
        raise AssertionError(self.process.communicate()[1])

    def ranks(self) -> list[int]:
        """Their process ids: the children of the launcher that are clctl."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with_parent = (path.parent / "stat").read_text().rsplit(")", 1)[1].split()
            if int(with_parent[1]) == self.process.pid and b"clctl" in path.read_bytes():
                found.append(int(path.parent.name))
        return sorted(found)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def test_ranks_stop_on_a_signal_and_one_process_goes_on(tmp_path, clctl, monkeypatch):
    changes = ("train.epochs=2", "report.log_every=1", "train.precision=fp32")
    run = Launched(tmp_path, *changes)
    run.until(2)
    run.process.send_signal(signal.SIGTERM)
    code, out, err = run.end()
    assert (code, out.count("stopped by SIGTERM")) == (75, 1), err
    assert "ranks     2, each with 32 images" in err
    assert err.count("images    1,437 train") == 1  # one rank talks
    monkeypatch.chdir(tmp_path)
    words = [word for change in changes for word in ("--set", change)]
    report = clctl("pretrain", "simclr", "-o", "run", *words, "--json").document
    assert report["resumed_from"] >= 2
    alone = clctl("pretrain", "simclr", "-o", "alone", *words, "--json").document
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "run")
    )
    assert [r["step"] for r in two] == [r["step"] for r in one]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)
    assert two[0]["feature_rank"] == pytest.approx(one[0]["feature_rank"], rel=1e-4)
    assert abs(report["metrics"]["top1"] - alone["metrics"]["top1"]) < 0.06  # rounding grows


def test_a_rank_that_is_killed_ends_the_others(tmp_path):
    run = Launched(tmp_path, "train.epochs=50", "report.log_every=1", "checkpoint.every_steps=2")
    run.until(3)
    first, second = run.ranks()
    os.kill(second, signal.SIGKILL)
    code, _, err = run.end()
    assert code == Exit.RANK
    assert "was ended by SIGKILL" in err
    assert not Path(f"/proc/{first}").exists()
    assert "Traceback" not in err
