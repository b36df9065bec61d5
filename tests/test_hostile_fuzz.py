"""Short fuzzing of every reader; `fuzz/run.py` is the long form."""

import resource

import pytest
from fuzz.mutate import damaged
from fuzz.targets import TARGETS, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

quick = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", TARGETS)
def test_whole_inputs_are_read(name, tmp_path):
    for data in seeds(name, tmp_path):
        TARGETS[name](data, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_and_damaged_ones_end_in_a_value_or_a_problem(name, tmp_path):
    whole = seeds(name, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @quick
    @given(st.binary(max_size=120) | st.integers(0, 2**40).map(lambda key: damaged(whole, key)))
    def hunt(data):
        TARGETS[name](data, tmp_path)

    hunt()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 400  # MB


def test_damage_follows_from_its_number():
    assert damaged([b"abcdef" * 9], 5) == damaged([b"abcdef" * 9], 5)
    assert len({damaged([b"abcdef" * 9], key) for key in range(50)}) > 40
