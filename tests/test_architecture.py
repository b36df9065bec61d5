"""The house rules that a reader relies on: floors, sizes, names, and what is never called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clctl"
FLOORS = (
    {"console"},  # talk and errors, which the other rooms of its floor need
    {"recipe", "store", "rng", "distributed"},
    {"losses", "nn", "method"},
    {"encoders", "optim", "images"},
    {"methods", "views", "data", "evaluate"},
    {"engine", "export", "report"},
    {"commands"},
    {"options"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NAMELESS = {"utils", "util", "base", "helpers", "helper", "common", "misc"}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNPICKLES = PACKAGE / "store" / "unpickle.py"  # a process of its own, for clctl convert
FREE_OF_TORCH = ("recipe", "console", "cli", "__main__")

FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """Dotted name of a file; a package goes by its folder."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            top = "." * node.level + (node.module or "")
            yield from (f"{top}.{alias.name}" for alias in node.names)


def at_load(tree: ast.Module) -> Iterator[str]:
    """What a file imports as soon as it is loaded itself."""
    inside = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    later = {id(n) for function in inside for n in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in later:
            yield from imports(ast.Module([node], []))


def room_of(module: str) -> str:
    """The room that a module stands in, empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def target_of(imported: str) -> str:
    """The module behind an imported name, which may be a name inside it."""
    parts = imported.split(".")
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def wrong_imports(module: str, source: str) -> list[str]:
    """Imports of a module that its place in the house does not allow."""
    room, wrong = room_of(module), []
    for imported in imports(ast.parse(source)):
        if imported.startswith("."):
            wrong.append(f"{module} imports {imported}: write the whole name")
        if imported.split(".")[0] != "clctl":
            continue
        target = target_of(imported)
        other = room_of(target)
        same = other == room
        sibling = room == "methods" and same and not target.rpartition(".")[2].startswith("_")
        upwards = bool(other) and not same and FLOOR[other] >= FLOOR.get(room, -1)
        beside = room == "losses" and not same and other != "distributed"
        reach = room == "engine" and (other in ("methods", "views") or "sources" in target)
        if sibling or upwards or beside or reach:
            wrong.append(f"{module} imports {target}")
    return wrong


def forbidden_calls(source: str) -> list[str]:
    """Calls and imports that run or unpickle what a file brings."""
    tree = ast.parse(source)
    wrong = [
        name for name in imports(tree) if name.split(".")[0] in PICKLES or name == "torch.load"
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in (
                "eval",
                "exec",
                "__import__",
                "torch.load",
                "builtins.eval",
                "builtins.exec",
            ):
                wrong.append(called)
            for word in node.keywords:
                safe = isinstance(word.value, ast.Constant) and word.value.value is False
                if word.arg == "allow_pickle" and not safe:
                    wrong.append("allow_pickle")
    return wrong


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in MODULES} - {""}
    assert {room for room in rooms if not room.startswith("_")} - {"__main__"} <= set(FLOOR)


def test_imports_go_strictly_downwards():
    wrong = [w for path in FILES for w in wrong_imports(module_of(path), path.read_text("utf-8"))]
    assert not wrong, "\n".join(wrong)


def test_modules_that_open_the_program_load_no_torch():
    heavy = [
        f"{module_of(path)} imports {name}"
        for path in FILES
        if room_of(module_of(path)) in FREE_OF_TORCH
        for name in at_load(ast.parse(path.read_text("utf-8")))
        if name.split(".")[0] in ("torch", "torchvision", "sklearn", "matplotlib")
    ]
    assert not heavy, "\n".join(heavy)


def test_files_stay_short():
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in [*FILES, *TESTS]}
    long = {str(p): n for p, n in lengths.items() if n > (250 if p in FILES else 400)}
    assert not long


def test_no_room_for_anything():
    assert not [str(p) for p in [*FILES, *TESTS] if p.stem.strip("_") in NAMELESS]
    assert not [str(p) for p in PACKAGE.rglob("*") if p.is_dir() and p.name in NAMELESS]


def test_nothing_is_unpickled_or_run():
    wrong = {p: found for p in FILES if (found := forbidden_calls(p.read_text("utf-8")))}
    assert wrong.pop(UNPICKLES) == ["torch.load"]
    assert not wrong


def test_the_one_place_that_unpickles_takes_weights_only_and_is_never_imported():
    calls = [
        n for n in ast.walk(ast.parse(UNPICKLES.read_text("utf-8"))) if isinstance(n, ast.Call)
    ]
    (load,) = [c for c in calls if ast.unparse(c.func) == "torch.load"]
    given = {word.arg: ast.unparse(word.value) for word in load.keywords}
    assert given["weights_only"] == "True"
    imported = [i for p in [*FILES, *TESTS] for i in imports(ast.parse(p.read_text("utf-8")))]
    assert "clctl.store.unpickle" not in imported


def test_every_module_says_what_it_is_and_every_method_its_source():
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in FILES}
    silent = [str(p) for p, text in docstrings.items() if p.name != "__init__.py" and not text]
    assert not silent
    methods = [p for p in FILES if p.parent.name == "methods" and not p.name.startswith("_")]
    assert methods
    assert not [str(p) for p in methods if "Source:" not in (docstrings[p] or "")]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("clctl.store.files", "from clctl.recipe.read import read"),
        ("clctl.nn.mlp", "import clctl.method"),
        ("clctl.nn.mlp", "from clctl import method"),
        ("clctl.nn.mlp", "def f():\n    from clctl.engine import train"),
        ("clctl.console", "from clctl.rng import generator"),
        ("clctl.methods.byol", "from clctl.methods.simclr import Config"),
        ("clctl.methods.byol", "from clctl.methods import simclr"),
        ("clctl.methods.byol", "from . import simclr"),
        ("clctl.losses.byol", "from clctl.rng import generator"),
        ("clctl.engine", "from clctl.methods.byol import Config"),
        ("clctl.engine", "from clctl.views import draw"),
        ("clctl.cli", "import clctl.__main__"),
    ],
)
def test_a_wrong_import_is_seen(module, source):
    assert wrong_imports(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("clctl.methods.byol", "from clctl.losses import byol"),
        ("clctl.methods.byol", "from clctl import __version__"),
        (
            "clctl.recipe.read",
            "from clctl.recipe.nodes import Node\nfrom clctl.console import Exit",
        ),
        ("clctl.losses.nt_xent", "from clctl.distributed import gather\nimport torch"),
        ("clctl.__main__", "from clctl.cli import app"),
    ],
)
def test_a_right_import_is_let_through(module, source):
    assert wrong_imports(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load('x', weights_only=True)",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "eval('1')",
        "exec(text)",
        "__import__('os')",
    ],
)
def test_a_forbidden_call_is_seen(source):
    assert forbidden_calls(source)


def test_harmless_calls_are_let_through():
    source = "model.eval()\nnp.load('x', allow_pickle=False)\njson.load(f)\nimport torch"
    assert forbidden_calls(source) == []
