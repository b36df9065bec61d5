"""Checkpoints: folders `checkpoints/step-00000132` that are there whole or not at all.

A folder is built under a hidden name, its manifest last, and then renamed. The manifest holds
the sha256 of both tensor files, and of itself with that one value as zeros.
"""

import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem
from clctl.store import documents, files, reading, tensors

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "clctl/checkpoint/1"
CHECKPOINTS = "checkpoints"
LOG = "metrics.jsonl"
MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"

_SEAL = "manifest_sha256"
# The second form is a checkpoint that was renamed to make room for another of its step.
_NAME = re.compile(r"step-(\d{8,})|\.step-(\d{8,})\.[0-9a-f]+\.old")


def save(
    run: Path,
    step: int,
    model: Mapping[str, "Tensor"],
    state: Mapping[str, "Tensor"],
    metadata: Mapping[str, str],
    about: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `step`, in the place of one of the same step.

    Args:
        metadata: Goes into the model file.
        about: Goes into the manifest.

    Returns:
        Its folder. Once this returns, the checkpoint and the log survive a power cut.

    Raises:
        Problem: Exit.RESOURCES if the disk does not take it; what was there is still there.
    """
    home = run / CHECKPOINTS
    target = home / f"step-{step:08d}"
    draft = _hidden(target, "tmp")
    files.make(home)
    files.sweep(home)
    log = None
    if reading.exists(run / LOG):
        files.sync(run / LOG)
        size, digest = reading.measured(run / LOG)
        log = {"bytes": size, "sha256": digest}
    try:
        files.make(draft)
        more = sum(t.numel() * t.element_size() for t in state.values())
        sums = {
            MODEL: tensors.write(draft / MODEL, model, metadata, more),
            STATE: tensors.write(draft / STATE, state, {}),
        }
        own = {
            "schema": SCHEMA,
            "step": step,
            "files": {
                name: {"sha256": sums[name], "bytes": os.path.getsize(draft / name)}
                for name in sums
            },
            "tensors": {"count": len(model), "params": sum(t.numel() for t in model.values())},
            "log": log,
            "parent": next((folder.name for at, folder in _found(home) if at < step), None),
            "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        files.write(draft / MANIFEST, documents.sealed({**own, **about, **own}, _SEAL))
        _put_in_place(draft, target)
    except BaseException:
        with suppress(Problem):  # the first error is the one to tell
            files.remove(draft)
        raise
    for at, folder in _found(home):
        if at == step and folder != target:
            files.remove(folder)
    return target


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, once every byte of the checkpoint was found to be what was written.

    Raises:
        Problem: Exit.CHECKPOINT, naming the file that is missing or damaged.
    """
    manifest = read(folder)
    try:
        step, sums = manifest["step"], {n: manifest["files"][n]["sha256"] for n in (MODEL, STATE)}
    except (KeyError, TypeError) as error:
        raise _damaged(folder / MANIFEST, "it does not tell its files") from error
    named = _NAME.fullmatch(folder.name)
    if named is not None and _step(named) != step:
        raise _damaged(folder / MANIFEST, f"it is of step {step}")
    for name, known in sums.items():
        if reading.digest(folder / name) != known:
            raise _damaged(folder / name, "its sha256 is not the one in the manifest")
    return manifest


def read(folder: Path) -> dict[str, Any]:
    """The manifest, as it was written; the tensor files are not looked at.

    Raises:
        Problem: Exit.CHECKPOINT, if it is missing or damaged.
    """
    path = folder / MANIFEST
    raw = reading.content(path)
    try:
        manifest = documents.parse(raw)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not documents.intact(raw, _SEAL):
        raise _damaged(path, "it does not have its own sha256")
    if manifest.get("schema") != SCHEMA:
        raise _damaged(path, f"its schema is {manifest.get('schema')}, not {SCHEMA}")
    return manifest


def load(
    folder: Path,
) -> tuple[dict[str, "Tensor"], dict[str, "Tensor"], dict[str, str], dict[str, Any]]:
    """The model's and the state's tensors, the model's metadata, and the manifest; verified.

    Raises:
        Problem: As `verify` does.
    """
    manifest = verify(folder)
    model, metadata = tensors.read(folder / MODEL)
    state, _ = tensors.read(folder / STATE)
    return model, state, metadata, manifest


def newest(run: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run; what is passed over is told to `say`."""
    for _, folder in _found(run / CHECKPOINTS):
        try:
            verify(folder)
        except Problem as problem:
            if problem.exit != Exit.CHECKPOINT:
                raise
            say(f"warning: passing over {folder.name}: {problem.message}")
        else:
            return folder
    return None


def steps(run: Path) -> list[int]:
    """Steps of the checkpoints that seem to be there, newest first; none is read."""
    return [step for step, _ in _found(run / CHECKPOINTS)]


def prune(run: Path, keep: int, spare: int | None = None, every: int | None = None) -> None:
    """Keep the newest `keep` whole checkpoints, that of step `spare` and those of each `every`-th
    step; delete the others.

    Nothing whole is deleted before `keep` newer ones were read and found whole.
    """
    if keep < 1:
        raise ValueError("a run keeps one checkpoint at least")
    home = run / CHECKPOINTS
    files.sweep(home)
    complete: list[tuple[int, Path]] = []
    for step, folder in _found(home):
        if MANIFEST in reading.names(folder):
            complete.append((step, folder))
        else:
            _delete(folder)
    if len(complete) <= keep:
        return
    whole: set[int] = set()
    count = Counter(step for step, _ in complete)
    for step, folder in complete:
        stays = step == spare or (every is not None and step % every == 0)
        enough = len(whole) >= keep
        if (enough and not stays) or step in whole:
            _delete(folder)
        # Of old ones that stay only two of a step are read again, or each save would read all.
        elif (not enough or count[step] > 1) and _is_whole(folder):
            whole.add(step)


def _found(home: Path) -> list[tuple[int, Path]]:
    """Step and folder of what may be a checkpoint, newest first."""
    matches = [match for name in reading.names(home) if (match := _NAME.fullmatch(name))]
    # "step-" comes after ".step-", so the one in its place goes before the one put aside.
    matches.sort(key=lambda match: (_step(match), match.string), reverse=True)
    return [(_step(match), home / match.string) for match in matches]


def _step(name: re.Match[str]) -> int:
    return int(name[1] or name[2])


def _hidden(folder: Path, end: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{end}")


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the draft; a folder already there is put aside, where `newest` still finds it."""
    if reading.exists(target):
        files.rename(target, _hidden(target, "old"))
    files.rename(draft, target)


def _delete(folder: Path) -> None:
    """Hide, then delete, so that half a deletion never looks like a damaged checkpoint."""
    hidden = _hidden(folder, "tmp")
    files.rename(folder, hidden)
    files.remove(hidden)


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except Problem as problem:
        if problem.exit != Exit.CHECKPOINT:
            raise
        return False
    return True


def _damaged(path: Path, reason: str) -> Problem:
    return Problem(f"{path} is damaged: {reason}", Exit.CHECKPOINT, "checkpoint.damaged")
