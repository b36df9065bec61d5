"""Grey pictures of more than 8 bits: one window of values for a whole set becomes 0 to 255.

One window, not one per picture: what is dark beside the others stays dark. Cameras and
microscopes fill 10 or 12 of 16 bits, and single hot pixels reach far above, so that neither the
type's range nor the extremes would do.
"""

from collections.abc import Iterable

import numpy as np

PERCENTILES = (0.5, 99.5)
PICTURES = 256  # at most, those of the smallest digests: any, but the same on every machine
VALUES = 4096  # about so many of each, evenly spread

Window = tuple[float, float]


def window(pictures: Iterable[tuple[str, np.ndarray]]) -> Window | None:
    """The values that become 0 and 255, or None without pictures.

    Args:
        pictures: (digest, float32 [n], finite) of every such picture of a set, in any order.
    """
    chosen = sorted(pictures, key=lambda pair: pair[0])[:PICTURES]
    # An odd step does not fall into step with lines of an even width.
    sample = [values[:: len(values) // VALUES | 1] for _, values in chosen]
    if not sample:
        return None
    low, high = np.percentile(np.concatenate(sample).astype(np.float64), PERCENTILES)
    return float(low), float(high)


def scaled(values: np.ndarray, window: Window) -> np.ndarray:
    """float32 of any shape to uint8: the window becomes 0 to 255, what lies beyond is clipped.

    A window of one single value sends it, and all below it, to 0.
    """
    low, high = window
    span = high - low or 1.0
    return np.rint((values.astype(np.float64) - low).clip(0, span) * (255 / span)).astype(np.uint8)
