"""Weights of other files for an encoder: names matched by rule, the share that fits counted.

One rule for all layouts (MoCo's module.encoder_q., MoCo v3's module.base_encoder., DINO's
teacher.backbone., Lightning's state_dict.model. and so on): the encoder is what lies behind the
prefix under which most of its names are found. Nothing is guessed beyond that: a tensor of the
encoder's own that is missing, left over or of another shape makes it another architecture.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.encoders._resnet import ResNet
from clctl.encoders._vit import ViT, resampled
from clctl.method import Encoder

# Where both are there, the other one is what its authors evaluate.
_COPIES = re.compile(r"encoder_k\b|momentum|target|student")
# What stands on top of an encoder, under the same prefix.
_HEADS = re.compile(
    r"(fc\d?|heads?|head_dist|linear|classifier|proj\w*|pred\w*|prototypes\d*|mlp|decoder\w*"
    r"|mask_token|queue\w*|last_layer|optimizer)(\.|$)"
)
_COUNTER = "num_batches_tracked"  # older files lack it, and nothing of ours reads it
_STEMS = ("conv1.weight", "patch_embed.proj.weight")
# torchvision's ResNet as nn.Sequential of its children, as lightly's examples cut it.
_CHILDREN = {"0": "conv1", "1": "bn1"} | {str(3 + i): f"layer{i}" for i in (1, 2, 3, 4)}
_SHOWN = 3


@dataclass(frozen=True)
class Fit:
    """What of a file is an encoder's.

    Attributes:
        named: Its tensors by the encoder's names, whatever their shape.
        expected: Shapes by the encoder's names, without counters of batches.
        prefix: What its names start with in the file.
        unknown: Names behind the prefix that no encoder of this kind has.
        heads: Those of heads, which stand on top of an encoder.
        beside: Names of the file that do not start with the prefix.
    """

    named: dict[str, Tensor]
    expected: dict[str, tuple[int, ...]]
    prefix: str
    unknown: tuple[str, ...]
    heads: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Names of the encoder that the file lacks."""
        return [name for name in self.expected if name not in self.named]

    @property
    def misshapen(self) -> list[str]:
        """Names whose tensor has another shape in the file."""
        there = {n: self.named[n] for n in self.expected if n in self.named}
        return [name for name, t in there.items() if tuple(t.shape) != self.expected[name]]

    @property
    def matched(self) -> int:
        """How many tensors fit by name and shape."""
        return len(self.expected) - len(self.missing) - len(self.misshapen)

    @property
    def share(self) -> str:
        """The same in words."""
        return f"{self.matched} of {len(self.expected)} tensors match"


def fit(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    prefix: str | None = None,
) -> Fit:
    """Find an encoder in a file.

    Args:
        tensors: All of the file, by name.
        shapes: The encoder's, by name.
        prefix: Where the file itself says what its encoder's names start with.
    """
    expected = {name: tuple(s) for name, s in shapes.items() if not name.endswith(_COUNTER)}
    if prefix is None:
        found = Counter(
            name.removesuffix(rest)
            for name in tensors
            for rest in _ends(name)
            if _own(rest, shapes) in expected
        )
        order = sorted(found, key=lambda p: (-found[p], bool(_COPIES.search(p)), p))
        prefix = order[0] if order else ""
    named: dict[str, Tensor] = {}
    unknown, heads, beside = [], [], []
    for key, tensor in tensors.items():
        name = _own(key.removeprefix(prefix), shapes)
        if not key.startswith(prefix):
            beside.append(key)
        elif name in shapes and name not in named:
            named[name] = tensor
        elif _HEADS.match(name):
            heads.append(key)
        elif not name.endswith(_COUNTER):
            unknown.append(key)
    return Fit(named, expected, prefix, tuple(unknown), tuple(heads), tuple(beside))


def fill(
    encoder: Encoder, tensors: Mapping[str, Tensor], what: str, prefix: str | None = None
) -> str:
    """Put the weights of a file into an encoder; gives what was taken, in words.

    A stem of another size stays as it was drawn, and positions of another grid are resampled;
    only clctl's own encoders have either.

    Args:
        what: The file and the encoder, for the message.
        prefix: As `fit` takes it.

    Raises:
        Problem: Exit.CHECKPOINT, saying how many tensors match, if it is another architecture
            or holds numbers that are not finite.
    """
    state = encoder.state_dict()
    found = fit(tensors, {name: tuple(value.shape) for name, value in state.items()}, prefix)
    words, named = [found.share], dict(found.named)
    for name in found.misshapen:
        old, new = tuple(named[name].shape), found.expected[name]
        if isinstance(encoder, (ResNet, ViT)) and name in _STEMS and old[:2] == new[:2]:
            del named[name]
            words.append(
                f"{name} stays random, for it is {old[2]}x{old[3]} there, {new[2]}x{new[3]} here"
            )
        elif isinstance(encoder, ViT) and name == "pos_embed" and _gridded(old, new):
            grid = math.isqrt(old[1] - 1)
            named[name] = resampled(named[name].float(), grid, encoder.grid)
            words.append(f"positions resampled from {grid}x{grid} to {encoder.grid}x{encoder.grid}")
        else:
            raise _mismatch(found, what)
    if found.missing or found.unknown or not found.expected:
        raise _mismatch(found, what)
    wrong = [name for name, tensor in named.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise Problem(
            f"{what}: {first(wrong)} hold numbers that are not finite",
            Exit.CHECKPOINT,
            "weights.not-finite",
            "take another file",
        )
    encoder.load_state_dict({**state, **named})
    if found.heads:
        words.append(f"dropped {', '.join(groups(found.heads))}")
    return "; ".join(words)


def groups(names: Sequence[str]) -> list[str]:
    """Names of a file by their first word, or two where the second is a head, and how many."""
    counted = Counter(_group(name) for name in names)
    return [f"{group} ({n} tensor{'s' * (n > 1)})" for group, n in counted.items()]


def first(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _group(name: str) -> str:
    words = [w for w in name.split(".") if w not in ("module", "state_dict", "model")]
    return words[0] if len(words) < 3 or not _HEADS.match(words[1] + ".") else ".".join(words[:2])


def _ends(name: str) -> Iterator[str]:
    """The name, and what is left of it behind each dot."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _own(name: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """The encoder's name: with a number for a child, the child's."""
    head, dot, rest = name.partition(".")
    mapped = f"{_CHILDREN[head]}.{rest}" if dot and head in _CHILDREN else name
    return mapped if name not in shapes and mapped in shapes else name


def _gridded(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether these are positions of square grids behind one class token, equally wide."""
    return len(old) == 3 and old[2] == new[2] and math.isqrt(old[1] - 1) ** 2 == old[1] - 1 > 0


def _mismatch(found: Fit, what: str) -> Problem:
    lists = {
        "missing": found.missing,
        "of another shape": found.misshapen,
        "not of this encoder": found.unknown,
    }
    details = "; ".join(f"{label}: {first(names)}" for label, names in lists.items() if names)
    return Problem(
        f"{what}: {found.share}; {details}",
        Exit.CHECKPOINT,
        "weights.mismatch",
        "they are of another architecture: name another encoder.name, or another file",
    )
