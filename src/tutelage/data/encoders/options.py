"""What a person may say of an encoder, checked before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tutelage.errors import InputError

__all__ = ["LONGEST", "names", "real", "whole"]

LONGEST = 1 << 16  # places of a text


def whole(option: str, value: Any, least: int, most: int, *, where: str) -> int:
    """A whole number in a range.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(
            f"`{option}` is out of range", where=where, given=f"{value!r:.80}",
            expected=f"a whole number, {least:,} … {most:,}",
        )  # fmt: skip
    return value


def real(option: str, value: Any, least: float, most: float, *, where: str) -> float:
    """A finite number above `least`, up to `most`.

    Raises:
        InputError: it is none.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least < value <= most or math.isinf(value):
        raise InputError(
            f"`{option}` is out of range", where=where, given=f"{value!r:.80}",
            expected=f"a number above {least:g}" + ("" if math.isinf(most) else f", up to {most:g}"),
        )  # fmt: skip
    return float(value)


def names(option: str, value: Any, *, where: str) -> tuple[str, ...]:
    """Names of columns; a single one may stand alone.

    Raises:
        InputError: they are none.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"`{option}` does not name columns", where=where, given=f"{value!r:.80}", expected="a list of names"
        )
    return tuple(value)
