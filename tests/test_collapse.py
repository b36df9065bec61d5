"""What prevents collapse, taken away on real digits, trips the guard; with it nothing does."""

from pathlib import Path

import pytest

SMALL = ("--set", "encoder.width=8", "--set", "train.precision=fp32", "--set", "report.log_every=5")
ABLATED = {
    "byol": ("method.predictor=null", "train.epochs=12"),
    "simsiam": ("method.stop_gradient=false", "train.epochs=12"),
    "vicreg": ("method.variance=0", "train.epochs=12"),
}


@pytest.mark.parametrize("name", ABLATED)
def test_a_method_without_what_prevents_its_collapse_is_stopped(name, clctl, tmp_path):
    sets = [flag for value in ABLATED[name] for flag in ("--set", value)]
    run = tmp_path / "run"
    answer = clctl(
        "pretrain", name, *SMALL, *sets, "--set", "checkpoint.every_steps=10", "--out", run
    )
    assert answer.code == 7, answer.err
    assert "warning: this looks like collapse" in answer.err
    assert "error: collapsed at step" in answer.err
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    named = next((word for word in answer.err.split() if word.startswith("step-")), None)
    assert named is None or named in kept
    assert '"status": "failed: train.collapsed"' in (run / "run.json").read_text()


@pytest.mark.parametrize("name", ABLATED)
def test_the_whole_method_is_not(name, clctl, tmp_path):
    run = tmp_path / "run"
    answer = clctl("pretrain", name, *SMALL, "--set", "train.epochs=12", "--out", run)
    assert answer.code == 0, answer.err
    assert "collapse" not in answer.err
    assert Path(run / "report.json").exists()
