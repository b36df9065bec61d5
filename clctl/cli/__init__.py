"""The command line: parse, call one function of `commands`, print what it gives.

Nothing heavy is imported here: `--help` and `list` answer before torch could load.
"""

# isort: off
# In the order in which --help lists the commands.
from clctl.cli import training
from clctl.cli import sweep
from clctl.cli import scoring
from clctl.cli import features
from clctl.cli import handover
from clctl.cli import looking
from clctl.cli import runs
from clctl.cli import data
from clctl.cli import convert
from clctl.cli import machine
from clctl.cli import bench
from clctl.cli import cache
from clctl.cli.app import app

__all__ = [
    "app",
    "bench",
    "cache",
    "convert",
    "data",
    "features",
    "handover",
    "looking",
    "machine",
    "runs",
    "scoring",
    "sweep",
    "training",
]
