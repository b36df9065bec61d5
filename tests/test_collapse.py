"""What prevents collapse, taken away on real digits, trips the guard; with it nothing does.

The packaged recipes, cut to seconds; that none of them trips it in full is in the README's table.
"""

import pytest

SMALL = {
    "byol": ("encoder.width=8", "optimizer.lr=2", "method.momentum=0.9", "train.epochs=6"),
    "simsiam": (
        "encoder.width=16",
        "method.projector=[256, 256]",
        "optimizer.lr=1",
        "train.epochs=10",
    ),
    "vicreg": ("encoder.width=8", "method.projector=[128, 128]", "train.epochs=6"),
}
ABLATED = {
    "byol": "method.predictor=null",
    "simsiam": "method.stop_gradient=false",
    "vicreg": "method.variance=0",
}


def arguments(name, *more):
    sets = ("train.precision=fp32", "report.log_every=4", "checkpoint.every_steps=8", *SMALL[name])
    return ["pretrain", name, *(flag for value in (*sets, *more) for flag in ("--set", value))]


@pytest.mark.parametrize("name", ABLATED)
def test_a_method_without_what_prevents_its_collapse_is_stopped(name, clctl, tmp_path):
    run = tmp_path / "run"
    answer = clctl(*arguments(name, ABLATED[name]), "--out", run)
    assert answer.code == 7, answer.err
    assert "warning: this looks like collapse" in answer.err
    assert "error: collapsed at step" in answer.err
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    named = [word for word in answer.err.split() if word.startswith("step-")]
    assert named
    assert named[-1] in kept
    assert '"status": "failed: train.collapsed"' in (run / "run.json").read_text()


@pytest.mark.parametrize("name", ABLATED)
def test_the_whole_method_is_not(name, clctl, tmp_path):
    answer = clctl(*arguments(name), "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "collapse" not in answer.err
