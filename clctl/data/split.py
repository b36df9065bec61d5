"""The split of labelled data that comes without one: stratified, four fifths to one fifth."""

import numpy as np
import torch
from torch import Tensor

from clctl.images import Split

Rows = dict[str, Tensor]  # split name -> int64 rows, rising

SET_ASIDE = "a fifth of the labelled images was set aside as test, stratified by class"


def stratified(labels: Tensor) -> tuple[Rows, str | None]:
    """Rows of "train" and "test", or of "train" alone and a note that says why.

    scikit-learn's train_test_split(test_size=0.2, stratify=labels, random_state=0), with the
    rows of each part sorted, so that a part keeps the order of the whole.

    Args:
        labels: int64 [N], values from 0.
    """
    # scikit-learn takes half a second to import; only data without a split pays for it
    from sklearn.model_selection import train_test_split

    everything = {"train": torch.arange(len(labels))}
    counts = torch.bincount(labels)
    counts = counts[counts > 0]
    test = -(-len(labels) // 5)  # a fifth, rounded up, as scikit-learn does
    if int(counts.min()) < 2:
        return everything, "no test part: a class has a single image, so nothing was set aside"
    if min(test, len(labels) - test) < len(counts):
        return everything, (
            f"no test part: a fifth of {len(labels)} images cannot hold {len(counts)} classes"
        )
    train, held = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels.numpy(), random_state=0
    )
    return {
        "train": torch.from_numpy(np.sort(train)),
        "test": torch.from_numpy(np.sort(held)),
    }, None


def part(whole: Split) -> tuple[dict[str, Split], str | None]:
    """The splits of one labelled pool, and a note where it could not be split.

    The pixels are copied; the image store avoids that by laying rows out in order.
    """
    assert whole.labels is not None
    rows, note = stratified(whole.labels)
    if note is not None:
        return {"train": whole}, note
    return {name: whole.take(at, name) for name, at in rows.items()}, None
