"""Rows of the test part that were seen in training: identical pictures, or identical features."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clctl.images import Images

NAMED = 5


@dataclass(frozen=True)
class Overlap:
    """Test samples whose twin may answer for them.

    Attributes:
        identical: How many test samples have a twin, in train, or among themselves where there
            is no train.
        of: How many test samples there are.
        named: The ids of the first few, each with its twin's.
    """

    identical: int
    of: int
    named: tuple[tuple[str, str], ...]


def overlap(
    train: Sequence[bytes] | None,
    test: Sequence[bytes],
    train_ids: Sequence[str] = (),
    test_ids: Sequence[str] = (),
) -> Overlap:
    """Count the test samples that have a twin, by their digests.

    Args:
        train: One digest a sample; None where test is compared with itself.
    """
    seen: dict[bytes, str] = {}
    twins: list[tuple[str, str]] = []
    if train is None:
        for digest, name in zip(test, test_ids, strict=True):
            if digest in seen:
                twins.append((name, seen[digest]))
            seen.setdefault(digest, name)
    else:
        for digest, name in zip(train, train_ids, strict=True):
            seen.setdefault(digest, name)
        pairs = zip(test, test_ids, strict=True)
        twins = [(name, seen[digest]) for digest, name in pairs if digest in seen]
    return Overlap(len(twins), len(test), tuple(twins[:NAMED]))


def of_images(images: Images) -> list[bytes]:
    """A digest of the pixels and the size of each image; what lies beyond its size is not read."""
    lines = images.canvas.permute(0, 2, 3, 1)  # as the bytes lie
    found = []
    for picture, (high, wide) in zip(lines, images.sizes.tolist(), strict=True):
        digest = hashlib.blake2b(repr((high, wide)).encode(), digest_size=16)
        digest.update(picture[:high, :wide].contiguous().numpy().data)
        found.append(digest.digest())
    return found


def of_rows(features: Tensor) -> list[bytes]:
    """A digest of each row of features [N, D]."""
    rows = features.contiguous().numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]
