"""Methods, encoders and sources by name: the folder is the registry.

`known` and `summary` read the files and import nothing, so that a listing never waits for torch.
"""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any


def known(package: str) -> dict[str, Path]:
    """The modules of a package and their files, by name; files starting with "_" are its own.

    Args:
        package: Dotted name such as "clctl.data.sources".

    Raises:
        ModuleNotFoundError: The top of the package is not installed.
    """
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No package named {top!r}", name=top)
    folder = Path(spec.submodule_search_locations[0], *rest)
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def summary(path: Path) -> str:
    """First line of a module's docstring, empty when it has none."""
    lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
    return lines[0] if lines else ""


def card(path: Path) -> dict[str, str]:
    """What a module's docstring says in lines such as "Source: ..." and "Year: 2020"."""
    found: dict[str, str] = {}
    key = ""
    for line in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()[1:]:
        if match := re.match(r"([A-Z][a-z ]+): (.+)", line):
            key = match[1]
            found[key] = match[2]
        elif key and line.strip():
            found[key] += f" {line.strip()}"
        else:
            key = ""
    return found


def module(name: str) -> str:
    """The module that a `name` picks: what stands before the first "/" of it.

    The rest is the module's own affair, such as a model of timm in "timm/convnext_atto".
    """
    return name.partition("/")[0]


def config(package: str, name: str) -> Any:
    """Imports the module that a `name` picks and gives its `Config`."""
    return importlib.import_module(f"{package}.{module(name)}").Config
