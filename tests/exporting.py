"""What the tests of export share: artefacts written once, and pictures to compare on."""

from collections.abc import Callable
from pathlib import Path

import torch

from clctl.export import _folder, _subject
from clctl.export._subject import Subject
from clctl.rng import generator

SIZE = 32

Written = Callable[[str, str], tuple[Subject, Path]]


def writer(make: Callable[[str], Subject], folder: Path) -> Written:
    """(name, target) -> subject and the folder of its export, each written once below `folder`."""
    subjects: dict[str, Subject] = {}
    paths: dict[tuple[str, str], Path] = {}

    def get(name: str, target: str) -> tuple[Subject, Path]:
        subject = subjects.setdefault(name, make(name))
        if (name, target) not in paths:
            paths[name, target] = _folder.write(target, subject, folder / "new")
        return subject, paths[name, target]

    return get


def pasted(target: str, subject: Subject, folder: Path) -> str:
    """The lines that clctl prints for an export."""
    module = _subject.module(target)
    return module.paste(subject, folder / module.LOADED)


def noise(count: int) -> torch.Tensor:
    """Pictures as evaluation prepares them."""
    x = torch.randn(count, 3, SIZE, SIZE, generator=generator(0, "noise"))
    return x.contiguous(memory_format=torch.channels_last)
