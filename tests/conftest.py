"""What all tests share: one thread per worker, a cache of their own, and the command line."""

import os

# Workers of pytest-xdist share the cores; torch reads this when it is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@dataclass
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLCTL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def clctl(capfd, monkeypatch):
    """Run a command in this process: clctl("knn-eval", run, "--json") -> Answer."""
    from clctl.__main__ import main

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Answer(int(left.value.code or 0), out, err)

    return run


FEW = ("--set", "train.epochs=2", "--set", "train.precision=fp32")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of two epochs, and what its command gave."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "clctl", "pretrain", "simclr", *FEW, "--out", folder, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def photographs(folder: Path, count: int, size: tuple[int, int] = (40, 48), seed: int = 0) -> None:
    """Write smooth colour pictures of one hue per folder, so that classes can be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tint = rng.uniform(0.2, 1, 3)
    for i in range(count):
        coarse = rng.uniform(0, 255, (4, 4, 3)) * tint
        picture = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:03d}.png")
