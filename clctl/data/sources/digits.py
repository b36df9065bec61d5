"""scikit-learn's 1,797 handwritten digits, 8 by 8 grey: the data that is always there.

Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
Differs: its 17 grey levels are spread over 0 to 255.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from clctl.data import fingerprint
from clctl.data.split import SET_ASIDE, part
from clctl.images import DataSet, Images, Split
from clctl.recipe.section import Section


class Config(Section):
    """`data:` section with `name: digits`."""

    name: Literal["digits"] = "digits"


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The digits, [N, 1, 8, 8], in splits "train" (1,437) and "test" (360)."""
    # half a second to import
    from sklearn.datasets import load_digits

    levels, target = load_digits(return_X_y=True)
    pixels = np.round(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    canvas = torch.from_numpy(pixels)[:, None].contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(target.astype(np.int64))
    images = Images(canvas, torch.full((len(canvas), 2), 8))
    whole = Split("train", images, labels, [str(i) for i in range(len(labels))])
    classes = tuple(str(digit) for digit in range(10))
    splits, _ = part(whole)
    return DataSet(
        name=config.name,
        splits=splits,
        classes=classes,
        fingerprint=fingerprint.of_set({"all": (fingerprint.of_pixels(canvas), labels)}, classes),
        labels_from="labels are scikit-learn's: 10 classes (the digits 0 to 9)",
        notes=(SET_ASIDE,),
        drawn=SET_ASIDE,
    )
