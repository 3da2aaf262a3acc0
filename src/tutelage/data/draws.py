"""Randomness without state: a number drawn for an example depends on (seed, epoch, id, stream) and on nothing else.

Integers are mixed with the finaliser of SplitMix64 (Steele, Lea, Flood 2014), in wrapping 64-bit arithmetic: the same
bits in any order, batch, thread, process or machine.
"""

from __future__ import annotations

from enum import IntEnum, auto, unique
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "Words", "mix", "uniform"]

Words = NDArray[np.uint64]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_A = 0xBF58476D1CE4E5B9
_B = 0x94D049BB133111EB


@final
@unique
class Stream(IntEnum):
    """What a number is drawn for; one list for the whole room, so that no two draws are secretly the same."""

    ORDER = auto()
    VIEW = auto()
    TEST = auto()
    VAL = auto()
    FLIP = auto()
    SHIFT_X = auto()
    SHIFT_Y = auto()
    ANGLE = auto()
    SIDE = auto()
    CROP_X = auto()
    CROP_Y = auto()
    ERASE = auto()
    ERASE_AREA = auto()
    ERASE_SHAPE = auto()
    ERASE_X = auto()
    ERASE_Y = auto()
    PARTNER = auto()
    SHARE = auto()
    PATCH_X = auto()
    PATCH_Y = auto()
    SAMPLE = auto()
    SIGN = auto()
    BALANCE = auto()
    SAME_CLASS = auto()
    LABELLED = auto()
    HIDDEN = auto()
    CONTRAST = auto()
    USER = auto()
    EXPERT = auto()
    CROSS_FIT = auto()
    MEMBER = 1001  # from the time when it stood elsewhere: answers that were stored depend on it


def mix(*keys: int | NDArray[np.int64] | Words) -> Words:
    """One well-mixed 64-bit word for every combination of keys.

    Arrays broadcast; integers alone give a 0-d array. The order of the keys matters. For fixed other keys the last one
    maps to its word one to one, so different ids never tie.
    """
    word: int | Words = 0
    for key in keys:
        part = int(key) & _MASK if isinstance(key, (int, np.integer)) or key.ndim == 0 else key.view(np.uint64)
        if isinstance(word, int) and isinstance(part, int):
            word = _finish_one(((word ^ part) + _STEP) & _MASK)
        else:
            word = _finish(np.bitwise_xor(word, part, dtype=np.uint64))
    return np.asarray(word, dtype=np.uint64)


def uniform(seed: int, epoch: int, ids: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) for examples, one for each id; another `stream` gives independent ones."""
    # 53 bits fill a float64 exactly, so that every value is a multiple of 2⁻⁵³ and 1 is never reached.
    return (mix(seed, epoch, stream, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finish_one(word: int) -> int:
    # Python's integers: a few scalar steps cost less than as many NumPy calls, and they do not warn when they wrap.
    word = (word ^ (word >> 30)) * _A & _MASK
    word = (word ^ (word >> 27)) * _B & _MASK
    return word ^ (word >> 31)


def _finish(word: Words) -> Words:
    word = word + np.uint64(_STEP)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(_A)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(_B)
    return word ^ (word >> np.uint64(31))
