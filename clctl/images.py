"""Raw pictures as the rest of clctl sees them: one uint8 canvas and the true size of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Pictures on a common canvas.

    Attributes:
        canvas: uint8 [N, C, H, W] with C 1 or 3, in channels_last memory (the bytes lie as
            [N, H, W, C]); what lies beyond an image's own size is never read. May be
            memory-mapped: do not write to it.
        sizes: int64 [N, 2] on the CPU, (height, width) of each image, at its top left corner.
    """

    canvas: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.canvas)

    def take(self, rows: Tensor) -> "Images":
        """The images at `rows` (int64 [B], CPU), as a copy in the same memory order."""
        lines = self.canvas.permute(0, 2, 3, 1)
        picked = lines.index_select(0, rows.to(lines.device, non_blocking=True)).permute(0, 3, 1, 2)
        return Images(picked, self.sizes[rows])

    def to(self, device: torch.device) -> "Images":
        """The same images with their canvas on `device`; sizes stay on the CPU."""
        return Images(self.canvas.to(device, non_blocking=True), self.sizes)


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: "train", "val", "test" or "all".
        images: The pictures.
        labels: int64 [N] on the CPU, or None.
        ids: N names, stable between machines: relative paths, or indices as text.
    """

    name: str
    images: Images
    labels: Tensor | None
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor, name: str | None = None) -> "Split":
        """The samples at `rows` (int64 [B], CPU)."""
        labels = None if self.labels is None else self.labels[rows]
        ids = [self.ids[int(i)] for i in rows.tolist()]
        return Split(name or self.name, self.images.take(rows), labels, ids)


@dataclass(frozen=True)
class DataSet:
    """A data set, decoded.

    Attributes:
        name: Name for people and file names: the source's, or the last part of the path.
        splits: "train" always; "val" and "test" where the source has them.
        classes: Class names in the order of the labels, or None without labels.
        fingerprint: sha256 hex over content and labels; the same on every machine.
        labels_from: How labels were found, in words, or why there are none.
        notes: What else the user should know, one sentence each.
        drawn: How test was set aside here, where the data came without a split; one of `notes`.
        pool: Pictures without labels that pretraining reads instead of train, where a set has
            more of them than labels.
        contents: Split -> the names of all its files, and 8 bytes of the sha256 of each, one after
            the other; empty where a source has no file for each picture.
    """

    name: str
    splits: dict[str, Split]
    classes: tuple[str, ...] | None
    fingerprint: str
    labels_from: str
    notes: tuple[str, ...] = field(default=())
    drawn: str | None = None
    pool: Split | None = None
    contents: Mapping[str, tuple[Sequence[str], bytes]] = field(default_factory=dict)

    def learnt(self, labels: bool) -> Split:
        """What pretraining reads: the pool where there is one, and train where it needs labels."""
        return self.splits["train"] if labels or self.pool is None else self.pool
