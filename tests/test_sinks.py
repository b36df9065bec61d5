"""Where the log goes besides metrics.jsonl: TensorBoard, and a sink of one's own."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from clctl.console import Exit, Problem
from clctl.recipe import sections
from clctl.recipe.read import find, read
from clctl.report.sinks._sink import Sinks

QUICK = ("--set", "train.epochs=1", "--set", "encoder.width=8", "--set", "train.precision=fp32")


@pytest.fixture
def recipe():
    return read(find("simclr"), ("report.tensorboard=true",))


@pytest.fixture
def own(monkeypatch):
    """A sink named `own` as a user would write it; gives what it was told."""
    told: list[tuple] = []

    class Sink:
        def open(self, run, recipe, start):
            self.run = run
            told.append(("open", run, recipe.name, start))

        def log(self, record):
            told.append(("log", dict(record)))

        def close(self):
            told.append(("close", {p.name for p in (self.run / "pictures").glob("*.png")}))

    module = ModuleType("clctl.report.sinks.own")
    vars(module)["Sink"] = Sink
    monkeypatch.setitem(sys.modules, module.__name__, module)
    known = sections.known
    monkeypatch.setattr(sections, "known", lambda package: {**known(package), "own": None})
    return told


def asked(recipe, *names: str):
    report = recipe.report.model_copy(update={"tensorboard": False, "sinks": names})
    return recipe.model_copy(update={"report": report})


def seen(run):
    """What TensorBoard itself reads."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_gets_numbers_recipe_and_pictures(tmp_path, recipe):
    tensorboard = pytest.importorskip("clctl.report.sinks.tensorboard", exc_type=ImportError)
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures" / "views.png")
    sink = tensorboard.Sink()
    sink.open(tmp_path, recipe, 0)
    for step in (10, 20):
        sink.log({"step": step, "loss": 1 / step, "epoch": step / 10, "what": "words"})
    sink.close()
    found = seen(tmp_path)
    assert set(found.Tags()["scalars"]) == {"loss", "epoch"}
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [
        (10, pytest.approx(0.1)),
        (20, pytest.approx(0.05)),
    ]
    (text,) = found.Tensors("recipe/text_summary")
    assert '"name": "simclr"' in text.tensor_proto.string_val[0].decode()
    (image,) = found.Images("views")
    assert (image.step, image.width, image.height) == (20, 9, 6)


def test_steps_that_a_run_takes_again_count_once(tmp_path, recipe):
    tensorboard = pytest.importorskip("clctl.report.sinks.tensorboard", exc_type=ImportError)
    for start, value, steps in ((0, 1.0, (10, 20, 30)), (20, 2.0, (30, 40))):
        sink = tensorboard.Sink()
        sink.open(tmp_path, recipe, start)
        for step in steps:
            sink.log({"step": step, "loss": value})
        sink.close()
    found = [(e.step, e.value) for e in seen(tmp_path).Scalars("loss")]
    assert found == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_without_the_extra_nothing_begins(tmp_path, clctl, monkeypatch):
    for name in [n for n in sys.modules if "tensorboard" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "run"
    answer = clctl("pretrain", "simclr", *QUICK, "--set", "report.tensorboard=true", "-o", out)
    assert answer.code == Exit.USAGE
    assert "report.tensorboard needs tensorboard, which is not installed" in answer.err
    assert "pip install 'clctl[tensorboard]'" in answer.err
    assert not out.exists()


def test_a_sink_that_is_not_there_is_a_mistake_in_the_recipe(clctl):
    answer = clctl("validate", "simclr", "--set", "report.sinks=[nonsense]")
    assert answer.code == Exit.RECIPE
    assert "there is no sink nonsense; there are tensorboard" in answer.err
    fine = read(find("simclr"), ("report.sinks=[tensorboard]", "report.tensorboard=true"))
    assert fine.report.takers == ("tensorboard",)
    assert read(find("simclr")).report.takers == ()


def test_a_sink_of_ones_own_gets_the_log_of_a_run(tmp_path, clctl, own):
    out = tmp_path / "run"
    words = (*QUICK, "--set", "report.sinks=[own]", "-o", out)
    assert clctl("pretrain", "simclr", *words).code == 0
    assert own[0] == ("open", out, "simclr", 0)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [what[1] for what in own[1:-1]] == [
        {k: v for k, v in record.items() if k != "time"} for record in logged
    ]
    assert own[-1] == ("close", {"views.png", "neighbors.png", "spectrum.png"})
    told = len(own)
    assert clctl("pretrain", "simclr", *words).code == 0  # done already
    assert len(own) == told


def test_a_sink_is_closed_before_it_opens_again_at_an_earlier_step(tmp_path, recipe, own):
    sinks = Sinks(asked(recipe, "own"), pytest.fail)
    sinks.open(tmp_path, recipe, 0)
    sinks.open(tmp_path, recipe, 20)
    sinks.close()
    sinks.close()
    assert [what[0] for what in own] == ["open", "close", "open", "close"]
    assert own[2][3] == 20


@pytest.mark.parametrize("broken", ["open", "log", "close"])
def test_a_sink_that_fails_is_told_once_and_the_others_go_on(
    tmp_path, recipe, own, monkeypatch, broken
):
    class Sink:
        def open(self, run, recipe, start): ...
        def log(self, record): ...
        def close(self): ...

    def fail(*_):
        raise RuntimeError("no route to host\nsecond line")

    setattr(Sink, broken, fail)
    module = ModuleType("clctl.report.sinks.flaky")
    vars(module)["Sink"] = Sink
    monkeypatch.setitem(sys.modules, module.__name__, module)
    said: list[str] = []
    sinks = Sinks(asked(recipe, "flaky", "own"), said.append)
    sinks.open(tmp_path, recipe, 0)
    sinks.log({"step": 10})
    sinks.log({"step": 20})
    sinks.close()
    sinks.open(tmp_path, recipe, 20)
    assert said == ["warning: flaky gets nothing more of this run: no route to host"]
    assert [what[0] for what in own] == ["open", "log", "log", "close", "open"]


def test_a_module_that_a_sink_needs_is_named(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "clctl.report.sinks.absent", None)
    with pytest.raises(Problem, match="the sink absent needs clctl") as raised:
        Sinks(asked(recipe, "absent"), pytest.fail)
    assert raised.value.exit == Exit.USAGE
