"""TensorBoard: every number of the log, the recipe as text, the pictures at the end.

They lie in the run's folder: tensorboard --logdir RUN.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from clctl.console import dump
from clctl.recipe.identity import resolved
from clctl.recipe.sections import Recipe

FLUSH = 10  # seconds after which a record is on the disk


class Sink:
    """Writes under RUN/tensorboard; a run that continues adds a file and takes back later steps."""

    def open(self, run: Path, recipe: Recipe, start: int) -> None:
        """As of any sink."""
        self._pictures, self._step = run / "pictures", start
        folder = str(run / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=start + 1, flush_secs=FLUSH)
        self._writer.add_text("recipe", f"```json\n{dump(resolved(recipe))}\n```", start)

    def log(self, record: dict[str, Any]) -> None:
        """As of any sink."""
        self._step = record["step"]
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, self._step)

    def close(self) -> None:
        """As of any sink."""
        try:
            for path in sorted(self._pictures.glob("*.png")):
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                self._writer.add_image(path.stem, pixels, self._step, dataformats="HWC")
        finally:
            self._writer.close()
