"""Counted randomness: every draw is a function of a key such as (seed, "views", step).

There is no random state to save, so a run that continues at step k draws what a run that was
never stopped drew at step k. Nothing in clctl draws from a global generator without first
seeding it from such a key.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from any key; the same on every platform and Python."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that stands at the start of the stream named by `key`."""
    return torch.Generator().manual_seed(seed_of(*key))


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed the global CPU generator from `key` inside the block; restore it afterwards.

    For code that is not ours and draws globally, such as the initialisation of `nn.Linear`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*key))
        yield
