"""A ring of past vectors in buffers, so that it is saved with the method, and how long it is."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clctl.console import Exit, Problem


class Queue(nn.Module):
    """First-in-first-out store of unit vectors.

    Buffers:
        items: float [size, width], unit rows, random at the start.
        head: int64 [], the row that is written next.
    """

    items: Tensor
    head: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("items", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Overwrite the oldest items with `rows` [N, width]; it wraps, and the last rows stay."""
        size = len(self.items)
        kept = rows[-size:].to(self.items.dtype)
        skipped = len(rows) - len(kept)
        place = torch.arange(skipped, len(rows), device=rows.device)
        self.items[(self.head + place) % size] = F.normalize(kept, dim=1)
        self.head.add_(len(rows)).remainder_(size)


def length(asked: int | Literal["auto"], published: int, batch: int, images: int | None) -> int:
    """Size of a queue.

    Args:
        asked: Of the recipe; "auto" is `published`, or the largest multiple of the batch up to
            half of the training set where that is less, and one batch at least.
        batch: Images of the global batch.
        images: Size of the training set, None if not known.

    Raises:
        Problem: If more is asked than there are images: keys would meet their own image.
    """
    if images is None:
        return published if asked == "auto" else asked
    fitting = max(images // 2 // batch, 1) * batch
    if asked == "auto":
        return min(published, fitting)
    if asked > images:
        raise Problem(
            f"method.queue {asked:,} is longer than the training set of {images:,} images",
            Exit.RECIPE,
            "recipe.queue",
            f"--set method.queue={min(fitting, images)}, or auto",
        )
    return asked
