"""The pictures of what a run has learned: drawn at its end, and on the way where that costs little."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from clctl.commands import _album
from clctl.commands._album import Album
from clctl.commands._online import Online
from clctl.commands._pictures import Pictures
from clctl.commands._scoring import Material
from clctl.commands.neighbors import drawn
from clctl.distributed import world
from clctl.images import Split
from clctl.report import charts, spectrum
from clctl.store import files

SHARE = 0.01  # of the time that pictures may cost
FIRST = 1.0  # seconds that the pictures are taken to cost before they were timed


@dataclass(frozen=True)
class Refreshed:
    """When the pictures were last drawn, and what that cost; both in seconds of one clock."""

    at: float = field(default_factory=time.perf_counter)
    cost: float = FIRST


@dataclass
class Watched:
    """The online score, with the pictures of `folder` drawn anew beside it."""

    online: Online
    folder: Path
    classes: Sequence[str]
    last: Refreshed = field(default_factory=Refreshed)

    def __call__(self, encoder: nn.Module) -> float:
        """Top-1 in [0, 1]."""
        bank, queries = self.online.features(encoder)
        if world()[0] == 0:  # the clocks of ranks differ, and one picture is enough
            self.last = refresh(self, bank, queries)
        return self.online.top1(bank, queries)


def refresh(watched: Watched, bank: Tensor, queries: Tensor) -> Refreshed:
    """Draw the pictures anew, unless what it cost last is more than SHARE of the time since.

    They show the images of the online score, which are trained on. To be called with a score, so
    that it is at most once for each.

    Args:
        bank, queries: Their features.

    Returns:
        When and at what cost it was last done.
    """
    begun, last, online = time.perf_counter(), watched.last, watched.online
    if last.cost > SHARE * (begun - last.at):
        return last
    one = _album.of_split("train, one part", online.bank, watched.classes, bank)
    another = _album.of_split("train, another", online.queries, watched.classes, queries)
    draw(watched.folder, one, another, {"so far": queries}, online.device)
    now = time.perf_counter()
    return Refreshed(now, now - begun)


def finished(folder: Path, seen: Pictures, materials: Mapping[str, Callable[[], Material]]) -> None:
    """Draw the pictures of the images that a run is scored on, beside random weights."""
    data, parts, found = seen.dataset, seen.parts, materials["trained"]()

    def album(split: Split, features: Tensor) -> Album:
        return _album.of_split(f"{data.name} {split.name}", split, data.classes, features)

    bank, queries = album(parts.test, found.test), None
    if parts.train is not None and found.train is not None:
        bank, queries = album(parts.train, found.train), bank
    features = {"trained": found.test, "random weights": materials["random_init"]().test}
    if world()[0] == 0:
        draw(folder, bank, queries, features, seen.where.device)


def draw(
    folder: Path,
    bank: Album,
    queries: Album | None,
    features: dict[str, Tensor],
    device: torch.device,
) -> None:
    """Write neighbors.png and spectrum.png.

    Args:
        queries: None: they are drawn from the bank, and none finds itself.
        features: [N, D] of each encoder whose spectrum is drawn, by its name.
    """
    drawn(bank, queries, folder / "neighbors.png", device)
    files.write(folder / "spectrum.png", charts.png(spectrum.figure(features)))
