"""The same targets led by coverage, where atheris is installed (`pip install atheris`).

`PYTHONPATH=.:tests python tests/fuzz/atheris_run.py TARGET -max_total_time=180`; what follows the
target are libFuzzer's own options. A find is written to a file crash-* in the folder.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clctl", "yaml"]):
    from fuzz.targets import TARGETS, seeds


def main() -> None:
    """Hunt from the seeds of the target that is named first."""
    name, place = sys.argv.pop(1), Path(tempfile.mkdtemp())
    corpus = place / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(name, place)):
        (corpus / str(number)).write_bytes(data)
    atheris.Setup([*sys.argv, str(corpus)], lambda data: TARGETS[name](data, place))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
