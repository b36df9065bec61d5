"""Open one file of torch.save and write its tensors as safetensors: a script, run by `foreign`.

`python -P unpickle.py IN OUT` ends with 0, or with 1 and the reason on stdout. It is the only place
that opens a pickle, always in a process of its own, which is small, poor and short-lived:
`weights_only` refuses code, and the limits here catch what makes that reader itself run wild.
Nothing of clctl is imported, so that only torch and this page are to be trusted.
"""

import argparse
import os
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor

FACTOR, SLACK = 4, 64 << 20  # memory and output per byte of the file, and what every file may take
SECONDS = 300  # of the processor
_GREEDY = "it takes far more memory than a file of its size should"


def main(source: str, target: str) -> str | None:
    """Why there is nothing at `target`, None if all went well."""
    if (fault := _fault(source)) is not None:
        return fault
    import torch
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    size = os.path.getsize(source)
    try:
        _restrict(FACTOR * size + SLACK)
        # DINO and others keep the arguments of their script beside the weights: plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
        found = dict(_leaves(loaded, "", set()))
        if not found:
            return "there are no tensors in it"
        needed = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        if needed > FACTOR * size + SLACK:
            return f"its tensors would take {needed:,} bytes, the file has {size:,}"
        save_file({name: tensor.detach().clone() for name, tensor in found.items()}, target)
    except MemoryError:
        return _GREEDY
    except Exception as error:  # a hostile file fails in any way it likes
        return _reason(error)
    return None


def _fault(source: str) -> str | None:
    """What is wrong with a file from the outside, before torch sees it."""
    with open(source, "rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(source):  # as torch writes since 1.6
        with zipfile.ZipFile(source) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = os.path.getsize(source)
        more = unpacked > size + SLACK
        told = f"it unpacks to {unpacked:,} bytes from {size:,}; torch.save does not compress"
        return told if more else None
    if start == b"PK":
        return "it is cut short: an archive without its end"
    return None if start[:1] == b"\x80" else "it is no file of torch.save"


def _restrict(allowance: int) -> None:
    """Limit what this process may still take: memory, output, time."""
    limits = {resource.RLIMIT_FSIZE: allowance, resource.RLIMIT_CPU: SECONDS}
    limits[resource.RLIMIT_CORE] = 0
    if os.path.exists("/proc/self/status"):  # elsewhere this limit counts otherwise, or nothing
        with open("/proc/self/status") as status:
            held = re.search(r"VmData:\s+(\d+) kB", status.read())
        limits[resource.RLIMIT_DATA] = int(held[1]) * 1024 + 3 * allowance if held else allowance
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _leaves(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, "Tensor"]]:
    """All tensors in dictionaries within dictionaries, by the keys on the way, with dots.

    Args:
        seen: Dictionaries met so far: one that is held many times would have no end.
    """
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict) and id(cast(Any, value)) not in seen:
        seen.add(id(cast(Any, value)))
        for key, item in cast(dict[Any, Any], value).items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key), seen)


def _reason(error: Exception) -> str:
    """What torch says, without its advice to open the file all the same."""
    text = str(error)
    if named := re.search(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)", text):
        return f"opening it would run or build {named[1]}, which is no tensor"
    if "allocate memory" in text or "not enough memory" in text:
        return _GREEDY
    if isinstance(error, RecursionError):
        return "its dictionaries are nested without end"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "eights" not in line] or [type(error).__name__]
    return f"torch cannot read it: {told[0][:200]}"


if __name__ == "__main__":
    reason = main(*sys.argv[1:])
    if reason is not None:
        print(reason)
        sys.exit(1)
