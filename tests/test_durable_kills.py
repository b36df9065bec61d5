"""Runs killed with -9 at random moments end in the bytes of runs that never were.

The long form: python tests/soak/kills.py --kills 50.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "soak"


def lines(script: str, *arguments: object) -> list[dict]:
    """What a script of tests/soak found, one document a trial."""
    done = subprocess.run(
        [sys.executable, str(SOAK / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=3500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("method", ["simclr", "moco_v2", "swav", "dino"])
def test_three_kills_change_nothing(method):
    (found,) = lines("kills.py", "--kills", 3, "--method", method)
    assert (found["method"], found["kills"], found["wrong"]) == (method, 3, [])
    assert found["resumed"] > 0  # or there was nothing to prove


@pytest.mark.soak
@pytest.mark.parametrize("method", ["simclr", "moco_v2", "swav", "dino"])
@pytest.mark.timeout(3600)
def test_fifty_kills_change_nothing(method):
    (found,) = lines("kills.py", "--kills", 50, "--method", method, "--seed", 1)
    assert (found["kills"], found["wrong"]) == (50, [])
