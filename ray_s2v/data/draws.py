"""Random numbers that are a function of what they are for: whoever asks, and however often, gets the same."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def pick(uniform: float, count: int) -> int:
    """One of 0 .. count - 1, from one number in [0, 1).

    Unlike `Generator.integers` it takes one number whatever the count is, so that no choice moves the ones drawn after it.
    """
    assert count > 0
    return int(uniform * count)
