"""clctl convert: the encoder of a pickled checkpoint of another program, as a safetensors file."""

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from clctl.console import Exit, Problem, Talk
from clctl.encoders import _weights
from clctl.report.document import Report
from clctl.store import documents, foreign, reading, tensors

KEY = "clctl.converted"  # in the metadata of a file of this command
RESNETS = ("resnet18", "resnet34", "resnet50")
VITS = {192: "vit_tiny", 384: "vit_small", 768: "vit_base"}  # by width
_TRUST = "--i-trust-this-file"


@dataclass(frozen=True)
class Order:
    """What was typed."""

    file: str
    to: str
    trusted: bool = False
    out: Path | None = None


def convert(order: Order, talk: Talk) -> Report:
    """Open the file in a process of its own, find the encoder in it, write that alone.

    Raises:
        Problem: Exit.USAGE for another target, Exit.EXISTS if something else is at the output;
            Exit.CHECKPOINT if the file is not trusted, cannot be opened, or holds no encoder that
            clctl has.
    """
    path, out = Path(order.file), _output(order)
    digest = reading.digest(path)
    talk.say(f"  opening   {path} in a process of its own")
    found, architecture = _guess(foreign.read(path), path)
    if architecture["name"] == "vit_small" and "base_encoder" in found.prefix:
        raise Problem(
            f"{path} is MoCo v3's vit_small, whose 384 channels are 12 heads; here they are 6",
            Exit.CHECKPOINT,
            "convert.heads",
            "MoCo v3's vit_base and resnet50 can be converted",
        )
    prefixes = {"from_sha256": digest, "prefix": found.prefix, **architecture}
    named = {name: tensor.clone() for name, tensor in found.named.items()}
    metadata = {KEY: documents.encode(prefixes, None).decode()}
    dropped = _weights.groups([*found.heads, *found.beside])
    document: dict[str, Any] = {
        "schema": "clctl/convert/1",
        "path": str(out),
        "sha256": tensors.write(out, named, metadata),
        "source": {"path": str(path), "sha256": digest},
        "encoder": architecture,
        "prefix": found.prefix,
        "matched": found.matched,
        "tensors": len(found.expected),
        "dropped": dropped,
    }
    facts = ", ".join(f"{k} {v}" for k, v in architecture.items() if k != "name")
    lines = [
        f"safetensors: {out}",
        f"  encoder   {architecture['name']} ({facts}), by its shapes",
        f"  weights   {found.share}, found under {found.prefix or 'no prefix'}",
        f"  dropped   {', '.join(dropped) or 'nothing'}",
        "",
        f"start from it: --set encoder.name={architecture['name']} --set encoder.weights={out}",
    ]
    return Report(document, "\n".join(lines), str(out))


def _output(order: Order) -> Path:
    """The file to write, once the order makes sense."""
    path = Path(order.file)
    if order.to != "safetensors":
        raise Problem(
            f"there is no conversion to {order.to!r}",
            Exit.USAGE,
            "convert.unknown-target",
            "--to safetensors",
        )
    if path.suffix == ".safetensors":
        raise Problem(
            f"{path} is a safetensors file already",
            Exit.USAGE,
            "convert.needless",
            f"start from it: --set encoder.weights={path}",
        )
    if not order.trusted:
        raise Problem(
            f"{path} is a pickle, a program that runs when it is opened. clctl opens it in a "
            "process of its own, which refuses code and is limited in memory and time, but that "
            "is no wall against a file made to harm",
            Exit.CHECKPOINT,
            "convert.untrusted",
            f"if you know who made it, add {_TRUST}",
        )
    out = order.out or path.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise Problem(
            f"{out} would not be found as weights: its name does not end in .safetensors",
            Exit.USAGE,
            "convert.name",
            f"--out {quote(str(out))}.safetensors",
        )
    if reading.exists(out) and not _ours(out):
        raise Problem(
            f"{out} is there and was not written by clctl convert",
            Exit.EXISTS,
            "convert.exists",
            "move it away, or give another --out",
        )
    return out


def _ours(path: Path) -> bool:
    try:
        return KEY in tensors.header(path).metadata
    except Problem:
        return False


def _guess(found: dict[str, Tensor], path: Path) -> tuple[_weights.Fit, dict[str, Any]]:
    """The encoder of the file, and its name and facts.

    Raises:
        Problem: Exit.CHECKPOINT with the nearest encoder, if none fits in every tensor.
    """
    fits = [(_weights.fit(found, shapes), facts) for shapes, facts in _candidates(found)]
    whole = [(f, facts) for f, facts in fits if f.matched == len(f.expected) and not f.unknown]
    if whole:
        return whole[0]
    nearest, facts = max(fits, key=lambda pair: pair[0].matched / len(pair[0].expected))
    raise Problem(
        f"{path} holds no encoder that clctl has: of {facts['name']}, the nearest, {nearest.share}",
        Exit.CHECKPOINT,
        "convert.no-encoder",
        "there are resnet18, resnet34, resnet50, vit_tiny, vit_small and vit_base",
    )


def _candidates(
    found: dict[str, Tensor],
) -> Iterator[tuple[dict[str, tuple[int, ...]], dict[str, Any]]]:
    """Shapes and facts of each encoder that the file might hold."""
    for name in RESNETS:
        for stem in ("imagenet", "small"):
            yield _shapes(name, 224, stem=stem), {"name": name, "stem": stem}
    for key, tensor in found.items():
        if not key.endswith("pos_embed") or tensor.dim() != 3 or tensor.shape[2] not in VITS:
            continue
        proj = found.get(f"{key.removesuffix('pos_embed')}patch_embed.proj.weight")
        if proj is not None and proj.dim() == 4 and 0 < proj.shape[3] <= 64:
            name, patch = VITS[tensor.shape[2]], proj.shape[3]
            size = patch * min(math.isqrt(max(tensor.shape[1] - 1, 1)), 256)
            yield _shapes(name, size, patch=patch), {"name": name, "patch": patch, "size": size}


def _shapes(name: str, size: int, **choices: Any) -> dict[str, tuple[int, ...]]:
    """Of a fresh encoder, without its numbers."""
    config = importlib.import_module(f"clctl.encoders.{name}").Config(**choices)
    with torch.device("meta"):
        state = config.build(size).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}
