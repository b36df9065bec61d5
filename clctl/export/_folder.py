"""The folder of an export: weights, config, preprocessing, card and checksums, or nothing."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem
from clctl.export._card import card
from clctl.export._subject import Subject, admit, module
from clctl.store import documents, files, reading, sums
from clctl.store.reference import KEY

CONFIG, PREPROCESSING, CARD = "config.json", "preprocessing.json", "README.md"


def write(target: str, subject: Subject, parent: Path) -> Path:
    """Write the folder `<name>-<target>` below `parent`; the same arguments give the same bytes.

    Raises:
        Problem: Exit.USAGE if the target lacks the encoder, or an extra is not installed;
            Exit.EXISTS if something else is in its place; Exit.RESOURCES from the disk.
    """
    admit(target, subject)
    kind = module(target)
    folder = parent / f"{subject.name}-{target}"
    _claim(folder, kind.WEIGHTS)
    draft, old = _hidden(folder), _hidden(folder)
    replaces = reading.exists(folder)
    try:
        files.make(draft)
        kind.save(subject, draft / kind.WEIGHTS)
        _describe(draft, target, subject)
        if replaces:
            files.rename(folder, old)
        files.rename(draft, folder)
    except BaseException:
        with suppress(Problem):  # the first error is the one to tell
            if reading.exists(old):
                files.rename(old, folder)
            if reading.exists(draft):
                files.remove(draft)
        raise
    if replaces:
        files.remove(old)
    return folder


def _describe(folder: Path, target: str, subject: Subject) -> None:
    """Write what goes with the weights."""
    kind = module(target)
    config: dict[str, Any] = {
        "schema": "clctl/export-config/1",
        "target": target,
        "facts": {"encoder": subject.architecture, **subject.facts},
        "num_features": subject.encoder.width,
        **kind.config(subject),
        KEY: subject.about,
    }
    preprocessing = {"schema": "clctl/preprocessing/1", **subject.preprocessing}
    text = card(subject, target, kind.WEIGHTS, kind.paste(subject, Path(kind.LOADED)))
    files.write(folder / CONFIG, documents.encode(config) + b"\n")
    files.write(folder / PREPROCESSING, documents.encode(preprocessing) + b"\n")
    files.write(folder / CARD, text.encode(errors="backslashreplace"))
    sums.write(folder)


def _claim(folder: Path, weights: str) -> None:
    """Go on if nothing is lost by writing to `folder`."""
    if reading.exists(folder) and not _ours(folder, weights):
        raise Problem(
            f"{folder} is there and is not as clctl export wrote it",
            Exit.EXISTS,
            "export.exists",
            "move it away, or give another --out",
        )


def _ours(folder: Path, weights: str) -> bool:
    """Whether the folder holds an earlier export, unchanged, and nothing besides."""
    there = set(reading.names(folder))
    if not there <= {weights, CONFIG, PREPROCESSING, CARD, sums.NAME}:
        return False
    try:
        whole = sums.NAME not in there or all(sums.check(folder).values())
        return whole and KEY in documents.read(folder / CONFIG, "checkpoint.damaged")
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        return False


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
