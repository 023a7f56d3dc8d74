# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are functions of what they are for, whatever was drawn before."""

import zlib
from functools import lru_cache

import numpy as np


def counter_generator(seed: int, purpose: str, step: int, position: int = 0) -> np.random.Generator:
    """A generator whose stream is a function of its arguments alone (Philox, a counter-based generator): the run's seed, what the
    numbers are for, the optimiser step, and the position in the global batch. Different purposes have independent streams."""
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], dtype=np.uint64)
    counter = np.array([0, 0, position, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@lru_cache(maxsize=8)
def seeded_order(seed: int, name: str, epoch: int, count: int) -> np.ndarray:
    """A permutation of `count` rows that depends on nothing else than the arguments."""
    return counter_generator(seed, name, epoch).permutation(count)
