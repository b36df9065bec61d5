"""The guard against collapse: what it reads at every line of the log, and what it makes of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clctl.console import Exit, Problem, Talk
from clctl.evaluate.diagnostics import rank_me
from clctl.method import Step
from clctl.recipe import sections

ROWS = 256  # of a batch, for the readings: more would make the rank slow

Record = dict[str, Any]


@dataclass(frozen=True)
class Sign:
    """One sign of collapse.

    Attributes:
        shown: Whether a record shows it, beside the readings of step 0.
        words: What it means, from both.
        early: Whether a healthy run may begin like this and learn its way out of it, as SwAV
            does: then it counts from the first line that was free of it; without such a line only
            in the second half of the run, and for a quarter.
    """

    shown: Callable[[Record, Record], bool]
    words: Callable[[Record, Record], str]
    early: bool = False


def readings(step: Step) -> Record:
    """What the guard reads of one step, as numbers.

    Of the encoder's output around its mean "feature_spread", root mean square over that of the
    whole, and "feature_rank", effective rank. Of predicted distributions "entropy", the mean
    over images, and "entropy_of_mean", that of their mean, both over the log of their entries;
    and "information", the gap between the two over the most that it could be: how much the
    predictions tell of the image, 0 where all images get the same.
    """
    if "features" not in step.watch:
        return {}
    h = step.watch["features"][:ROWS].double().cpu()
    around = h - h.mean(dim=0)
    share = around.square().sum() / h.square().sum().clamp_min(1e-300)
    found = {"feature_spread": float(share.sqrt()), "feature_rank": rank_me(around)}
    if "predictions" in step.watch:
        p = step.watch["predictions"][:ROWS].double().cpu()
        each, whole = float(_entropy(p).mean()), float(_entropy(p.mean(dim=0)))
        even = math.log(p.shape[1])
        found |= {"entropy": each / even, "entropy_of_mean": whole / even}
        found["information"] = (whole - each) / math.log(min(p.shape))
    return found


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp_min(1e-300).log()).sum(dim=-1)


SIGNS = {
    "spread": Sign(
        lambda now, first: now["spread"] < min(0.1, first["spread"] / 2),
        lambda now, first: (
            f"the projections of different images point the same way: spread {now['spread']:.3f}, "
            "where 1 fills the sphere and 0 is one point"
        ),
    ),
    "shrunk": Sign(
        lambda now, first: now["spread"] < 0.4 * first["spread"],
        lambda now, first: (
            f"the projections of different images have drawn together: spread {now['spread']:.3f}, "
            f"at step 0 {first['spread']:.3f}"
        ),
        early=True,
    ),
    "std": Sign(
        lambda now, first: "std" in now and now["std"] < first["std"] / 4,
        lambda now, first: (
            f"the projections shrink to nothing: standard deviation {now['std']:.3g}, at step 0 "
            f"{first['std']:.3g}"
        ),
    ),
    "features": Sign(
        lambda now, first: now["feature_spread"] < first["feature_spread"] / 4,
        lambda now, first: (
            f"the features of different images are nearly the same: spread around their mean "
            f"{now['feature_spread']:.3f}, at step 0 {first['feature_spread']:.3f}"
        ),
    ),
    "rank": Sign(
        lambda now, first: now["feature_rank"] < max(1.5, first["feature_rank"] / 8),
        lambda now, first: (
            f"the features vary along {now['feature_rank']:.1f} directions, at step 0 along "
            f"{first['feature_rank']:.1f}"
        ),
    ),
    "trivial": Sign(
        lambda now, first: (
            "loss_ideal" in now
            and now["loss"] - now["loss_ideal"] < 0.08
            and now["feature_rank"] < 0.45 * first["feature_rank"]
        ),
        lambda now, first: (
            f"hardly anything is left to predict: the loss {now['loss']:.4f} is near its best, "
            f"{now['loss_ideal']:g}, while the features vary along {now['feature_rank']:.1f} "
            f"directions, at step 0 along {first['feature_rank']:.1f}"
        ),
    ),
    "loss": Sign(
        lambda now, first: (
            "loss_chance" in now and abs(now["loss"] / now["loss_chance"] - 1) < 0.01
        ),
        lambda now, first: (
            f"the loss {now['loss']:.4f} stands at {now['loss_chance']:.4f}, that of an encoder "
            "that tells no two images apart"
        ),
        early=True,
    ),
    "information": Sign(
        lambda now, first: now.get("information", 1.0) < 0.02,
        lambda now, first: (
            f"all images get the same prediction: it tells {now['information']:.3f} of what it "
            f"could; its entropy is {now['entropy']:.2f} of uniform"
        ),
        early=True,
    ),
}


class Guard:
    """Judges every line of the log; says what it fears, and stops a run that has collapsed.

    What it knows can be read again from the log, so a run that continues is judged alike.

    Attributes:
        first: The readings of step 0.
        armed: Steps of warmup, in which nothing is judged.
        half: Half of the steps of the run.
    """

    def __init__(
        self, recipe: sections.Guard, first: Record, armed: int, half: int, talk: Talk
    ) -> None:
        self._recipe, self._talk = recipe, talk
        self.first, self.armed, self.half = first, armed, half
        self._outgrown: set[str] = set()  # signs that some line was free of
        self._lasts: dict[str, tuple[int, int]] = {}  # sign -> since which step, how many lines
        self._good: int | None = None  # newest checkpoint from before any sign

    def again(self) -> "Guard":
        """One that has seen nothing yet, with the same readings of step 0."""
        return Guard(self._recipe, self.first, self.armed, self.half, self._talk)

    def judge(self, record: Record, aloud: bool = True) -> None:
        """Take a record in.

        Args:
            aloud: Whether this is news; False for what stands in the log already.

        Raises:
            Problem: Exit.NUMERICS if one sign has lasted for as long as the recipe allows.
        """
        if record["step"] <= self.armed or "feature_spread" not in record:
            return
        shown = {name for name, sign in SIGNS.items() if sign.shown(record, self.first)}
        self._outgrown |= SIGNS.keys() - shown
        before = {
            name: self._lasts.get(name, (record["step"], 0)) for name in SIGNS if name in shown
        }
        self._lasts = {name: (since, lines + 1) for name, (since, lines) in before.items()}
        longest, patience = self._longest(record["step"]), self._recipe.patience
        if not aloud or not longest:
            return
        worst = [name for name in self._lasts if self._weight(name, record["step"]) == longest]
        words = "; ".join(SIGNS[name].words(record, self.first) for name in worst)
        if longest == (patience + 1) // 2:
            self._talk.say(f"warning: this looks like collapse at step {record['step']:,}: {words}")
        if longest >= patience and self._recipe.action == "stop":
            raise self._collapsed(record["step"], words, self._lasts[worst[0]])

    def _weight(self, name: str, step: int) -> int:
        """For how many lines in a row a sign has lasted, as far as they count."""
        _, lines = self._lasts[name]
        if not SIGNS[name].early or name in self._outgrown:
            return lines
        return lines // 4 if step > self.half else 0

    def _longest(self, step: int) -> int:
        return max((self._weight(name, step) for name in self._lasts), default=0)

    def recall(self, records: Sequence[Record], saves: Sequence[int]) -> None:
        """Judge the log of a run that continues as it was judged then, silently.

        Args:
            saves: Steps of its checkpoints.
        """
        for record in records:
            self.judge(record, aloud=False)
        last = records[-1]["step"] if records else 0
        counted = [self._lasts[name][0] for name in self._lasts if self._weight(name, last)]
        self._good = max((s for s in saves if s < min(counted, default=math.inf)), default=None)

    def good_save(self, step: int) -> int | None:
        """Note that a checkpoint of `step` stands; gives the newest from before any sign."""
        if not self._longest(step):
            self._good = step
        return self._good

    def _collapsed(self, step: int, words: str, lasted: tuple[int, int]) -> Problem:
        kept = "no checkpoint is from before"
        if self._good is not None:
            kept = f"checkpoint step-{self._good:08d} is the last from before"
        return Problem(
            f"collapsed at step {step:,}: {words}; so for {lasted[1]} lines of the log, "
            f"since step {lasted[0]:,}",
            Exit.NUMERICS,
            "train.collapsed",
            f"{kept}; lower optimizer.lr, or look at method and views; guard.action=warn goes on",
        )
