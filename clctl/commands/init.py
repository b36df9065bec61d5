"""clctl init: a commented recipe for a folder of pictures, from a look at them."""

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from clctl.commands._recommended import GPU, PROCESSOR, Choice, commented, grey, long, recommended
from clctl.commands._surveyed import Surveyed, surveyed
from clctl.console import Exit, Problem, Talk, clean, dump
from clctl.recipe.scalars import whole
from clctl.recipe.schema import schema
from clctl.report.document import Report, percent
from clctl.store import files

SCHEMA = "recipe.schema.json"
SAMPLE = 2000  # pictures that are looked at


@dataclass(frozen=True)
class Order:
    """What was typed."""

    path: str
    out: Path


def init(order: Order, talk: Talk) -> Report:
    """Write the recipe, and beside it the schema by which editors complete it.

    Raises:
        Problem: Among others, Exit.EXISTS if the recipe's file is there already.
    """
    if os.path.lexists(order.out):
        raise Problem(
            f"{order.out} exists, and is not written over",
            Exit.EXISTS,
            "init.exists",
            f"-o {order.out.stem}-2.yaml",
        )
    if order.out.suffix not in (".yaml", ".yml"):
        raise Problem(
            f"{order.out} does not end in .yaml",
            Exit.USAGE,
            "usage.suffix",
            f"-o {order.out.with_suffix('.yaml')}",
        )
    found = surveyed(order.path, talk, SAMPLE)
    machine = GPU if torch.cuda.is_available() else PROCESSOR
    choices = recommended(found, machine)
    text = _recipe(order, found, choices)
    files.make(order.out.absolute().parent)
    beside = order.out.with_name(SCHEMA)
    if not os.path.lexists(beside):
        files.write(beside, (dump(schema()) + "\n").encode())
    files.write(order.out, text.encode())
    document: dict[str, Any] = {
        "schema": "clctl/init/1",
        "path": str(order.out),
        "json_schema": str(beside),
        "machine": machine.name,
        "pictures": len(found.ids),
        "looked_at": len(found.looks) + len(found.bad),
        "recommended": {
            key: {"value": choice.value, "reason": choice.reason} for key, choice in choices.items()
        },
    }
    lines = [
        f"{order.out}: SimCLR on {found.name}, {len(found.ids):,} pictures, for a {machine.name}",
        f"  {found.labels_from}",
        f"  next      clctl views {quote(str(order.out))} -o views.png",
        f"            clctl pretrain {quote(str(order.out))}",
    ]
    return Report(document, "\n".join(lines), str(order.out))


def _recipe(order: Order, found: Surveyed, choices: dict[str, Choice]) -> str:
    """The recipe as text; every value that was chosen has its reason beside it."""

    def line(key: str) -> str:
        choice = choices[key]
        return commented(f"  {key.partition('.')[2]}: {choice.value}", choice.reason)

    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# SimCLR on {_comment(found.name)}, a first recipe from clctl init.",
        "#",
        f"#   clctl views {_comment(quote(order.out.name))} -o views.png",
        f"#   clctl pretrain {_comment(quote(order.out.name))}",
        "#",
        f"# data      {len(found.ids):,} pictures; {_comment(found.labels_from)}",
        *(f"#           {_comment(note)}" for note in found.notes),
        "# here      not measured",
        "seed: 0",
        "data:",
        f"  name: {found.source.name}",
        *_data(order, found, choices),
        "encoder:",
        *(line(key) for key in choices if key.startswith("encoder.")),
        "method:",
        "  name: simclr",
        "  projector: [512, 128]",
        "  temperature: 0.2",
        "views:",
        line("views.size"),
        *_views(found, choices["views.size"].value),
        "train:",
        line("train.epochs"),
        line("train.batch_size"),
        "optimizer:",
        "  name: sgd",
        commented("  lr: 0.3", "per 256 images; the rate follows the batch size by itself"),
        "  weight_decay: 1e-4",
        "checkpoint:",
        "  every_minutes: 5",
    ]
    return "\n".join(lines) + "\n"


def _data(order: Order, found: Surveyed, choices: dict[str, Choice]) -> list[str]:
    """The keys of the data section below its name."""
    if not hasattr(found.source, "path"):
        return []
    path = _path(found.source.path, order.out)
    lines = [commented(f"  path: {path}", "counts from this file's folder")]
    if found.source.name != "folder":
        return lines
    if found.classes is not None:
        lines.append(commented("  # labels: none", "if your folders are albums, not classes"))
    if "data.bad_images" in choices:
        choice = choices["data.bad_images"]
        lines.append(commented(f"  bad_images: {choice.value}", choice.reason))
    elif found.bad:
        words = f"{len(found.bad)} cannot be decoded: mend or remove them"
        lines.append(commented("  # bad_images: skip", words))
    if share := long(found):
        words = f"{percent(share)} are longer than 3:2 and lose their ends"
        lines.append(commented("  # max_aspect: 2", words))
    return lines


def _views(found: Surveyed, size: int) -> list[str]:
    """One group of two views; colour is left alone where there is none."""
    if grey(found):
        colour = "jitter: {p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0, hue: 0}"
        colours = [f"      {colour}   # no colour to change"]
    else:
        colours = [
            "      jitter: {p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}",
            commented("      grayscale: 0.2", "leave out where colour tells pictures apart"),
        ]
    where = "add where left and right mean nothing; not for text, digits, X-rays"
    return [
        "  groups:",
        "    - count: 2",
        "      crop: {scale: [0.2, 1.0]}",
        commented("      # hflip: 0.5", where),
        *colours,
        *(["      blur: {p: 0.5}"] if size > 32 else []),
    ]


def _path(data: str, out: Path) -> str:
    """As YAML: relative where the data lies in or below the recipe's folder."""
    home, place = out.absolute().parent.resolve(), Path(data).resolve()
    text = str(place.relative_to(home) if place.is_relative_to(home) else Path(data).absolute())
    if whole(text) is None:
        raise Problem(
            f"the name of {data} is not UTF-8 and cannot stand in a recipe",
            Exit.DATA,
            "data.name",
            "rename the folder or link to it",
        )
    return dump(text)


def _comment(text: str) -> str:
    return clean(text).replace("\n", " ")
