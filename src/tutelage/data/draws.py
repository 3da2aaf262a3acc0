"""Randomness without state: a number drawn for an example depends on (seed, epoch, id, stream) and on nothing else.

Integers are mixed with the finaliser of SplitMix64 (Steele, Lea, Flood 2014), in NumPy's wrapping 64-bit arithmetic:
the same bits in any order, batch, thread or process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mix", "uniform"]

Words = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_A = np.uint64(0xBF58476D1CE4E5B9)
_B = np.uint64(0x94D049BB133111EB)


def mix(*keys: int | NDArray[np.int64] | Words) -> Words:
    """One well-mixed 64-bit word for every combination of keys; arrays broadcast."""
    with np.errstate(over="ignore"):
        word: Words = np.zeros(1, dtype=np.uint64)
        for key in keys:
            part = np.asarray(key, dtype=np.int64).view(np.uint64) if isinstance(key, int) else key.view(np.uint64)
            word = _finish((word ^ part) + _STEP)
    return word


def uniform(seed: int, epoch: int, ids: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) for examples, one for each id; another `stream` gives independent ones."""
    # 53 bits fill a float64 exactly, so that every value is a multiple of 2⁻⁵³ and 1 is never reached.
    words = mix(mix(seed, epoch, stream), ids)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finish(word: Words) -> Words:
    word = (word ^ (word >> np.uint64(30))) * _A
    word = (word ^ (word >> np.uint64(27))) * _B
    return word ^ (word >> np.uint64(31))
