"""Two steps of a recipe in a process of its own, to learn whether they fit into memory."""

import json
import os
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

from clctl.commands import _setup
from clctl.commands._launch import parts
from clctl.commands._training import Trainer
from clctl.console import Talk
from clctl.data.open import load
from clctl.engine import train
from clctl.recipe.saved import from_resolved
from clctl.store.run import Run


def main() -> None:
    """Read {"recipe", "device"} from stdin; any end but a quiet one says that it did not fit."""
    with suppress(OSError):  # where the system must kill something, let it be this
        Path("/proc/self/oom_score_adj").write_text("1000")
    job, talk = json.load(sys.stdin), Talk(quiet=True)
    recipe = from_resolved(job["recipe"], "the recipe")
    where = _setup.machine(job["device"], recipe.train.precision)
    split = load(recipe.data, recipe.views.size, talk.say, False).learnt(recipe.method.supervised)
    method, feed, optimizer = parts(recipe, split, where)
    trainer = Trainer(
        *(recipe, method, optimizer, split, feed, where, Run(Path(os.devnull)), {}, {}, talk)
    )
    # The second step has what the first leaves behind: momenta, a queue.
    for tick in islice(train(trainer.plan, method, optimizer), 2):
        tick.fetch()
