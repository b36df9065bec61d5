"""The command line: parse, call one function of `commands`, print what it gives.

Nothing heavy is imported here: `--help` and `list` answer before torch could load.
"""

# isort: off  (--help lists the commands in this order)
from clctl.cli import cache, convert, data, features, handover, looking, machine, scoring, training
from clctl.cli.app import app

__all__ = [
    "app",
    "cache",
    "convert",
    "data",
    "features",
    "handover",
    "looking",
    "machine",
    "scoring",
    "training",
]
