"""clctl inspect: what a checkpoint holds and where it comes from. Torch is not imported."""

import json
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem, Talk
from clctl.report.document import Report
from clctl.store import checkpoint, reference, tensors


def inspect(ckpt: str, data: str | None, split: str | None, talk: Talk) -> Report:
    """The header, the manifest and the recipe of a checkpoint, every checksum verified.

    Args:
        data: Also tell whether the checkpoint was trained on this.
        split: Only with data: how many images this part has.
    """
    found = reference.find(ckpt, talk.say)
    header = tensors.header(found.model)
    weights = {n: e for n, e in header.tensors.items() if e.dtype.startswith(("F", "BF"))}
    count = sum(_size(entry.shape) for entry in weights.values())
    manifest = None
    if found.checkpoint is not None:
        manifest = json.loads((found.checkpoint / checkpoint.MANIFEST).read_text("utf-8"))
    about = found.about
    document: dict[str, Any] = {
        "schema": "clctl/inspect/1",
        "path": str(found.model),
        "sha256": found.sha256,
        "about": about,
        "manifest": manifest,
        "tensors": {
            name: {"dtype": e.dtype, "shape": list(e.shape), "bytes": e.bytes}
            for name, e in header.tensors.items()
        },
    }
    recipe = about.get("recipe", {})
    lines = [
        f"{found.model}",
        f"  sha256    {found.sha256}",
        f"  step      {about.get('step')}",
        f"  method    {recipe.get('method', {}).get('name')}",
        f"  encoder   {_facts(about.get('encoder', {}))}",
        f"  input     {_facts(about.get('preprocessing', {}))}",
        f"  data      {_facts(about.get('data', {}))}",
        f"  tensors   {len(header.tensors)}, {count:,} numbers, {_mib(found.model)}",
    ]
    if manifest is not None:
        lines.append(f"  made with {_facts(manifest.get('environment', {}))}")
    if data is not None:
        document["data"] = _compare(about, data, split, talk)
        lines.append(f"  --data    {document['data']['words']}")
    groups: dict[str, int] = {}
    for name, entry in header.tensors.items():
        top = name.partition(".")[0]
        groups[top] = groups.get(top, 0) + _size(entry.shape)
    lines += [f"    {name:<10} {size:,} numbers" for name, size in groups.items()]
    return Report(document, "\n".join(lines), found.sha256)


def _compare(about: dict[str, Any], data: str, split: str | None, talk: Talk) -> dict[str, Any]:
    from clctl.data.open import load
    from clctl.recipe.saved import from_resolved, with_data

    recipe = with_data(from_resolved(about["recipe"], "the checkpoint"), data)
    dataset = load(recipe.data, recipe.views.size, talk.say)
    same = dataset.fingerprint == about["data"]["fingerprint"]
    if split is not None and split not in dataset.splits:
        raise Problem(
            f"{dataset.name} has no part {split}", Exit.DATA, "data.no-split",
            f"--split {next(iter(dataset.splits))}",
        )  # fmt: skip
    parts = {n: len(p) for n, p in dataset.splits.items() if split in (None, n)}
    words = f"{dataset.name}, {_facts(parts)}: " + (
        "the data it was trained on" if same else "not the data it was trained on"
    )
    return {"fingerprint": dataset.fingerprint, "same": same, "images": parts, "words": words}


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in facts.items())


def _mib(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
