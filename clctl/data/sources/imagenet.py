"""ImageNet (ILSVRC 2012) as class folders in train/ and val/; it is never downloaded.

Source: Russakovsky et al. 2015, arXiv:1409.0575.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clctl.console import Exit, Problem
from clctl.data import named
from clctl.data.sources import folder
from clctl.images import DataSet
from clctl.recipe.section import Section


class Config(Section):
    """`data:` section with `name: imagenet`.

    root: the folder that holds train/ and val/, with a folder for each class in both; null for
        datasets/imagenet/ in clctl's cache.
    short_side, verify: as of `name: folder`.
    """

    name: Literal["imagenet"] = "imagenet"
    root: str | None = None
    short_side: Annotated[int, Field(ge=8)] | None = None
    verify: bool = False


def load(config: Config, view_size: int, talk: Callable[[str], None]) -> DataSet:
    """The pictures in splits "train" and "val", decoded through the image store.

    Raises:
        Problem: As of `folder`, and if there are no class folders in train/ and val/.
    """
    root = named.place(None) / "imagenet" if config.root is None else Path(config.root)
    for part in ("train", "val"):
        where = root / part
        if not where.is_dir() or not any(entry.is_dir() for entry in where.iterdir()):
            raise Problem(
                f"imagenet is not in {root}: {part}/ has no class folders",
                Exit.DATA,
                "data.not-downloaded",
                "--download cannot fetch it: image-net.org gives ILSVRC2012_img_train.tar, "
                "ILSVRC2012_img_val.tar and the devkit to those who register; with these in "
                f'the folder, `python -c "from torchvision.datasets import ImageNet as I; '
                f"[I({str(root)!r}, s) for s in ('train', 'val')]\"` unpacks them; or set data.root",
            )
    plain = folder.Config(
        path=str(root), labels="folders", short_side=config.short_side, verify=config.verify
    )
    return replace(folder.load(plain, view_size, talk), name=config.name)
