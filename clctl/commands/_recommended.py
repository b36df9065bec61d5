"""From what pictures are like to a recipe to begin with: each value with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from clctl.commands._surveyed import Surveyed
from clctl.report.document import percent

SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)  # px
ENLARGED = 1.15  # a view may be larger than the usual picture by this factor
LONG = 1.5  # data.max_aspect: longer pictures lose their ends
MOST_BAD = 0.05  # data.max_bad


@dataclass(frozen=True)
class Choice:
    """A value for a recipe, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Machine:
    """What differs between a processor and a GPU: limits and aims, not measured optima.

    Attributes:
        name: For people.
        largest: Largest view in pixels.
        batch_size: Images of a step.
        steps: Steps to aim at.
        epochs: Fewest and most epochs.
    """

    name: str
    largest: int
    batch_size: int
    steps: int
    epochs: tuple[int, int]


PROCESSOR = Machine("processor", 64, 64, 5000, (1, 400))
GPU = Machine("GPU", 224, 256, 40000, (50, 800))


def recommended(found: Surveyed, machine: Machine) -> dict[str, Choice]:
    """Values by their key in the recipe, such as "views.size".

    Args:
        found: At least one picture of it was seen.
    """
    looks = found.looks.values()
    short = round(median(look.short for look in looks))
    fits = [size for size in SIZES if size <= min(ENLARGED * short, machine.largest)]
    size = fits[-1] if fits else SIZES[0]
    why = f"the usual short side is {short} px"
    if size == machine.largest < short:
        why += f"; larger views take long on a {machine.name}"
    elif size > short:
        why += "; pictures are enlarged"
    train = _train(found)
    batch, epochs = _batch(train, machine), _epochs(train, machine)
    choices = _encoder(size, train, machine)
    choices["views.size"] = Choice(size, why)
    choices["train.epochs"] = Choice(
        epochs, f"{epochs * (train // batch):,} steps; more epochs help while kNN still rises"
    )
    words = f"{train // batch:,} steps an epoch of {train:,} pictures"
    choices["train.batch_size"] = Choice(batch, f"for a {machine.name}: {words}")
    share = len(found.bad) / len(found.looks | found.bad)
    if 0 < share <= MOST_BAD:
        choices["data.bad_images"] = Choice("skip", f"{percent(share)} cannot be decoded")
    return choices


def grey(found: Surveyed) -> bool:
    """Whether the pictures have no colour, however they are stored."""
    looks = found.looks.values()
    return sum(look.colourless for look in looks) >= 0.99 * len(looks)


def long(found: Surveyed) -> float:
    """The share of pictures that lose their ends."""
    looks = found.looks.values()
    return sum(look.aspect > LONG for look in looks) / len(looks)


def block(choices: Mapping[str, Choice]) -> list[str]:
    """The choices as lines of YAML, the sections in their usual order, reasons as comments."""
    lines: list[str] = []
    for section in ("data", "encoder", "views", "train"):
        keys = [key for key in choices if key.startswith(f"{section}.")]
        lines += [f"{section}:"] if keys else []
        lines += [f"  {_entry(key, choices[key])}" for key in keys]
    return lines


def commented(text: str, comment: str) -> str:
    """An entry with its comment where the packaged recipes have theirs."""
    return f"{text:<27} # {comment}"


def _entry(key: str, choice: Choice) -> str:
    return commented(f"{key.partition('.')[2]}: {choice.value}", choice.reason)


def _train(found: Surveyed) -> int:
    """Pictures to train on, as far as a sample tells."""
    whole = found.splits.count("train")
    usable = whole * len(found.looks) // len(found.looks | found.bad)
    return max(2, usable * 4 // 5 if found.pooled else usable)


def _batch(train: int, machine: Machine) -> int:
    """Halved until an epoch has eight steps, to no less than eight, or all there is."""
    batch = machine.batch_size
    while batch > 8 and train // batch < 8:
        batch //= 2
    while batch > train:
        batch //= 2
    return batch


def _epochs(train: int, machine: Machine) -> int:
    least, most = machine.epochs
    return min(most, max(least, round(machine.steps / (train // _batch(train, machine)))))


def _encoder(size: int, train: int, machine: Machine) -> dict[str, Choice]:
    if machine is PROCESSOR:
        why = "light enough for a processor; on a GPU resnet18 or resnet50"
        return {"encoder.name": Choice("resnet_small", why)}
    if size > 96 and train >= 50_000:
        name = Choice("resnet50", "enough pictures for a large one")
    else:
        name = Choice("resnet18", "for small sets or small pictures")
    if size <= 64:
        stem = Choice("small", f"stride 2 and pooling would lose what {size} px show")
    else:
        stem = Choice("imagenet", f"stride 2 and pooling suit views of {size} px")
    return {"encoder.name": name, "encoder.stem": stem}
