"""Encoders made again from what was written down of them: a file that may have been altered since."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.data.encoders.options import LONGEST
from tutelage.errors import DamagedError

__all__ = ["reading", "shape_of"]


@contextlib.contextmanager
def reading(kind: str, facts: Mapping[str, Any]) -> Iterator[None]:
    """Within it, whatever the facts lack or hold wrongly becomes one error.

    Raises:
        DamagedError: these are no facts of an encoder of this kind, or not all of them.
    """
    where = f"facts of a `{kind}` encoder"
    if facts.get("kind") != kind:
        raise DamagedError("these are the facts of another encoder", where=where, given=f"{facts.get('kind')!r:.80}")
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, AssertionError) as error:
        raise DamagedError(
            "what was written down of an encoder is not whole", where=where,
            given=f"{type(error).__name__}: {error!s:.200}", fix="copy all files of the student again",
        ) from error  # fmt: skip


def shape_of(facts: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The columns and the length that an encoder of texts was written down with.

    Raises:
        KeyError, TypeError, ValueError: they are not there, or cannot be.
    """
    columns, length = facts["columns"], facts["length"]
    if not isinstance(columns, list) or not columns or not all(isinstance(one, str) for one in columns):
        raise TypeError("columns")
    if type(length) is not int or not 1 <= length <= LONGEST:
        raise ValueError("length")
    return tuple(columns), length
