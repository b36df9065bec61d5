"""Which images make up which batch: a pure function of (seed, step), wherever training starts.

Of several processes each gathers its own rows of the global batch, which is the same for all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from clctl.console import Exit, Problem
from clctl.distributed import world
from clctl.images import Images, Split
from clctl.rng import generator


class Feed:
    """Batches of one split, each epoch in a new order; what does not fill a batch waits its turn.

    On CUDA the canvas is moved to the device when it takes less than half of what is free;
    else each batch is gathered on the processor, and copied while the device works.

    Attributes:
        per_epoch: Batches of one epoch, at least 1.
        part: Rows of the global batch that are this process's.
        resident: Whether the canvas lies on a CUDA device.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        device: torch.device,
        uses_labels: bool,
        per_class: int | None = None,
    ) -> None:
        """Raises Problem if there are fewer images than one batch, or no labels to use."""
        if len(split) < batch_size:
            size = 1 << (len(split).bit_length() - 1)
            raise Problem(
                f"{len(split)} images in {split.name} do not fill one batch of {batch_size}",
                Exit.DATA,
                "data.fewer-than-batch",
                f"--set train.batch_size={size}, or more images",
            )
        if uses_labels and split.labels is None:
            raise Problem(
                f"this method learns from labels, and {split.name} has none",
                Exit.DATA,
                "data.no-labels",
                "give labelled data, or take another method",
            )
        rank, ranks = world()
        if batch_size % ranks:
            raise Problem(
                f"a batch of {batch_size} cannot be cut into {ranks} equal parts, one for each rank",
                Exit.RECIPE,
                "recipe.batch-of-ranks",
                f"--set train.batch_size={max(1, batch_size // ranks) * ranks}",
            )
        share = batch_size // ranks
        self.part = slice(rank * share, (rank + 1) * share)
        self._classes = _Classes(split, batch_size, per_class) if per_class else None
        self.per_epoch = len(split if self._classes is None else self._classes) // batch_size
        self.resident = device.type == "cuda" and _fits(split.images.canvas, device)
        self._images = split.images.to(device) if self.resident else split.images
        self._labels = split.labels if uses_labels else None
        self._batch, self._seed, self._device = batch_size, seed, device
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        """Rows of the global batch of this step: int64 [B] on the CPU, none twice in an epoch."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            key = generator(self._seed, "order", epoch)
            if self._classes is None:
                self._order = torch.randperm(len(self._images), generator=key)
            else:
                self._order = self._classes.order(key)
            self._epoch = epoch
        return self._order[place * self._batch : (place + 1) * self._batch]

    def batches(self, start: int) -> Iterator[tuple[Images, Tensor | None]]:
        """This process's part of each batch from step `start` on, without end.

        Labels are None unless the method uses them.
        """
        step = start
        while True:
            rows = self.rows(step)[self.part]
            labels = None if self._labels is None else self._send(self._labels[rows])
            yield self._gather(rows), labels
            step += 1

    def _gather(self, rows: Tensor) -> Images:
        if not self.resident:
            batch = self._images.take(rows)
            lines = self._send(batch.canvas.permute(0, 2, 3, 1))
            return Images(lines.permute(0, 3, 1, 2), batch.sizes)
        lines = self._images.canvas.permute(0, 2, 3, 1).index_select(0, self._send(rows))
        return Images(lines.permute(0, 3, 1, 2), self._images.sizes[rows])

    def _send(self, values: Tensor) -> Tensor:
        """To the device; on CUDA from pinned memory, so that the processor need not wait."""
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values.to(self._device)


class _Classes:
    """Orders in which every `per_class` rows in a row are of one class (P x K sampling).

    Source: Hermans et al. 2017, "In Defense of the Triplet Loss", arXiv:1703.07737, Sec. 2.
    """

    def __init__(self, split: Split, batch_size: int, per_class: int) -> None:
        """Raises Problem if no batch can be filled that way."""
        assert split.labels is not None
        self._per_class = per_class
        rows = [(split.labels == label).nonzero()[:, 0] for label in split.labels.unique()]
        self._rows = [r for r in rows if len(r) >= per_class]
        if len(self) < batch_size or len(self._rows) < 2:
            raise Problem(
                f"{len(self._rows)} classes of {split.name} have {per_class} images; taken "
                f"{per_class} at a time they do not fill a batch of {batch_size} with two classes",
                Exit.DATA,
                "data.fewer-than-batch",
                "lower method.per_class or train.batch_size, or give more images",
            )

    def __len__(self) -> int:
        return sum(len(r) // self._per_class for r in self._rows) * self._per_class

    def order(self, key: torch.Generator) -> Tensor:
        """Rows of one epoch; each class gives a group in turn, so that a batch has many classes."""
        turns: list[list[Tensor]] = []
        for rows in self._rows:
            shuffled = rows[torch.randperm(len(rows), generator=key)]
            groups = shuffled[: len(rows) // self._per_class * self._per_class]
            for turn, group in enumerate(groups.split(self._per_class)):
                if turn == len(turns):
                    turns.append([])
                turns[turn].append(group)
        shuffled = [
            turn[i] for turn in turns for i in torch.randperm(len(turn), generator=key).tolist()
        ]
        return torch.cat(shuffled)


def _fits(canvas: Tensor, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return canvas.nbytes < free / 2
