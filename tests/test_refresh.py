from pathlib import Path

import torch

from clctl.commands import _refresh
from clctl.commands._online import online
from clctl.commands._refresh import FIRST, SHARE, Refreshed, Watched, refresh
from clctl.images import Images, Split
from clctl.recipe.policy import ViewGroup, Views


def test_a_refresh_waits_until_it_costs_little(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_refresh.time, "perf_counter", lambda: now[0])
    rng = torch.Generator().manual_seed(0)
    canvas = torch.randint(256, (40, 3, 8, 8), generator=rng, dtype=torch.uint8)
    split = Split(
        "train",
        Images(canvas, torch.full((40, 2), 8)),
        torch.arange(40) % 2,
        [str(i) for i in range(40)],
    )
    policy = Views(size=8, groups=(ViewGroup(count=2),))
    asked = online(split, 2, policy, torch.device("cpu"))
    encoder = torch.nn.Flatten()
    start = Refreshed(0.0)

    def at(seconds: float, last: Refreshed) -> Refreshed:
        now[0] = seconds
        watched = Watched(asked, tmp_path, ("a", "b"), last)
        return refresh(watched, *asked.features(encoder))

    assert at(0.9 * FIRST / SHARE, start) is start
    assert not list(tmp_path.iterdir())
    drawn = at(FIRST / SHARE, start)
    assert drawn == Refreshed(FIRST / SHARE, 0.0)
    assert {p.name for p in tmp_path.iterdir()} == {"neighbors.png", "spectrum.png"}
    first = (tmp_path / "neighbors.png").read_bytes()
    slow = Refreshed(drawn.at, 5.0)
    assert at(drawn.at + 499, slow) is slow
    assert at(drawn.at + 500, slow) is not slow
    assert (tmp_path / "neighbors.png").read_bytes() == first


def test_the_end_of_a_run_draws_what_it_learned(trained):
    run, _ = trained
    names = {p.name for p in (Path(run) / "pictures").iterdir()}
    assert names >= {"views.png", "neighbors.png", "spectrum.png"}
