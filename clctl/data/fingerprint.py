"""The fingerprint of a data set: one hash over content and labels, equal on every machine."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor


def of_pixels(canvas: Tensor) -> str:
    """sha256 hex of a canvas, uint8 [N, C, H, W] in channels_last memory, and its shape."""
    lines = canvas.permute(0, 2, 3, 1).contiguous()
    digest = hashlib.sha256(repr(tuple(lines.shape)).encode())
    digest.update(lines.numpy().data)
    return digest.hexdigest()


def of_files(named: Iterable[tuple[str, str]]) -> str:
    """sha256 hex of (id, sha256 hex of the file) pairs, in their order."""
    quoted = json.JSONEncoder().encode  # `json.dumps` of each pair would take thrice as long
    lines = [f'[{quoted(name)}, "{content}"]\n' for name, content in named]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def brief(digests: Iterable[str]) -> bytes:
    """The first 8 bytes of each sha256 hex, one after the other: enough to tell what changed."""
    return bytes.fromhex("".join(digest[:16] for digest in digests))


def of_set(
    parts: Mapping[str, tuple[str, Tensor | None]],
    classes: Sequence[str] | None,
    window: tuple[float, float] | None = None,
) -> str:
    """sha256 hex of a whole set.

    Args:
        parts: Split name -> (hash of its content, labels int64 [N] or None).
        classes: Class names in the order of the labels.
        window: The values that became 0 and 255, where pictures had more than 8 bits.
    """
    scale = [] if window is None else [window]
    digest = hashlib.sha256(json.dumps(["clctl/data/1", classes, *scale]).encode())
    for name in sorted(parts):
        content, labels = parts[name]
        digest.update(json.dumps([name, content, labels is not None]).encode())
        if labels is not None:
            digest.update(labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
