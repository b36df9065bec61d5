"""Bits flipped in, and bytes cut off, every file of a run: noticed and named, or without effect.

With `-m soak` at each 1/64 of each file, without at each 1/8.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clctl.commands.pretrain import Order, pretrain
from clctl.console import Exit, Problem, Talk
from clctl.store import checkpoint, reading, reference

TINY = ("encoder.width=8", "train.epochs=2", "train.batch_size=8", "report.log_every=1")
TINY += ("checkpoint.every_steps=2", "guard.action=warn", "train.precision=fp32")
LAST = "checkpoints/step-00000006"
FILES = [f"{LAST}/{name}" for name in ("model.safetensors", "state.safetensors", "manifest.json")]
FILES += ["run.json", "metrics.jsonl", "recipe.resolved.json", "report.json", "initial.safetensors"]


class Heard(Talk):
    """What was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run that began with the encoder of another."""
    place = tmp_path_factory.mktemp("damage")
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    np.savez(place / "set.npz", images=images)
    sets = (*TINY, "data.name=arrays", f"data.path={place / 'set.npz'}")
    for name, before in (("before", None), ("run", str(place / "before"))):
        (place / name / "pictures").mkdir(parents=True)
        (place / name / "pictures" / "views.png").touch()
        pretrain(Order("simclr", sets, init_from=before, out=place / name), Talk(quiet=True))
    return place / "run"


def damaged(raw: bytes, part: int, parts: int) -> list[bytes]:
    at = len(raw) * part // parts
    return [raw[:at] + bytes([raw[at] ^ 1 << part % 8]) + raw[at + 1 :], raw[:at]]


def steps(log: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def outcome(run: Path, name: str) -> str:
    """What continuing the run came to: "exit 5", "told" or "silent"."""
    heard = Heard()
    try:
        assert pretrain(Order(str(run)), heard).exit == 0
    except Problem as problem:
        named = Path(name).name in problem.message and problem.suggestion
        return f"exit {int(problem.exit)}" if named else problem.message
    told = [line for line in heard.lines if line.startswith("warning") and Path(name).name in line]
    return "told" if told else "silent"


def tried(name: str, parts: int, whole: Path, tmp_path: Path) -> set[str]:
    raw, found = (whole / name).read_bytes(), set[str]()
    model = reading.digest(whole / LAST / "model.safetensors")
    for part in range(parts):
        for bad in damaged(raw, part, parts):
            run = Path(shutil.copytree(whole, tmp_path / "run"))
            (run / name).write_bytes(bad)
            came = outcome(run, name)
            found.add(came)
            if came != "exit 5":
                assert reading.digest(run / LAST / "model.safetensors") == model
            if came == "silent":  # the name of a seal or of a key that nobody needs
                assert json.loads((run / "run.json").read_text())["status"] == "done"
                assert steps(run / "metrics.jsonl") == steps(whole / "metrics.jsonl")
            shutil.rmtree(run)
    return found


WAYS = {
    "manifest.json": {"told"},
    "model.safetensors": {"told"},
    "state.safetensors": {"told"},
    "run.json": {"exit 5"},
    "metrics.jsonl": {"told", "exit 5"},
    "recipe.resolved.json": {"exit 5"},
    "report.json": {"told"},
    "initial.safetensors": {"exit 5"},
}


@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed_and_named(name, whole, tmp_path):
    assert tried(name, 8, whole, tmp_path) <= WAYS[Path(name).name]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FILES)
def test_damage_at_each_64th_is_noticed_and_named(name, whole, tmp_path):
    assert tried(name, 64, whole, tmp_path) <= WAYS[Path(name).name] | {"silent"}


def test_a_checkpoint_that_was_named_is_not_replaced_by_another(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in FILES[:3]:
        path = run / name
        raw = path.read_bytes()
        for part in range(0, 64, 8):
            for bad in damaged(raw, part, 64):
                path.write_bytes(bad)
                with pytest.raises(Problem, match=path.name) as caught:
                    reference.find(str(run / LAST))
                assert caught.value.exit == Exit.CHECKPOINT
        path.write_bytes(raw)
    assert reference.find(str(run / LAST)).checkpoint == run / LAST


def test_keep_1_never_deletes_the_only_good_one(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in ("model.safetensors", "manifest.json"):
        path = run / LAST / name
        path.write_bytes(path.read_bytes()[:-3])
        checkpoint.prune(run, 1)
        found = checkpoint.newest(run, lambda text: None)
        assert found == run / "checkpoints" / "step-00000004"


def test_a_run_whose_first_weights_are_gone_goes_on_without_that_baseline(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "initial.safetensors").unlink()
    shutil.rmtree(run / LAST)
    report = pretrain(Order(str(run)), Talk(quiet=True))
    assert report.document["resumed_from"] == 4
    name = f"{LAST}/model.safetensors"
    assert reading.digest(run / name) == reading.digest(whole / name)
    assert not (run / "initial.safetensors").exists()
