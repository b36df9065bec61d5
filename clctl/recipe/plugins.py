"""Methods, encoders and sources by name: the folder is the registry.

`known` and `summary` read the files and import nothing, so that a listing never waits for torch.
"""

import ast
import importlib
import importlib.util
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


def config(package: str, name: str) -> Any:
    """Imports a module named by `known` and gives its `Config`, whose `name` is a Literal."""
    return importlib.import_module(f"{package}.{name}").Config
