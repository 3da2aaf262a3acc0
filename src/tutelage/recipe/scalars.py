"""What a plain word in a recipe means: the core rules of YAML 1.2, in which `no` is a word and `1e-4` is a number.

The widespread readers follow YAML 1.1, where `off` is false, `1e-4` is text and `010` is eight: three ways to train
something other than what was written. Here the rules stand once, for reading and for writing.
"""

from __future__ import annotations

import re

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})

# Longer runs of digits are no number anybody meant, and take quadratic time to convert.
_LONGEST_NUMBER = 64

Scalar = str | int | float | bool | None


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar.

    >>> [resolve(word) for word in ("1e-4", "0o17", "off", "~", "1_000")]
    [0.0001, 15, 'off', None, '1_000']
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(f"{infinite[1]}inf")
    return float("nan") if text in _NAN else text


def show(value: object, *, limit: int = 60) -> str:
    """A value as messages quote it: short, on one line, in the words of a recipe rather than of Python.

    >>> show("fast"), show(True), show(None), show([1, 2])
    ("'fast'", 'true', 'nothing', 'a list')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    # Cut before quoting: the quoting of a very long text is itself long.
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    if isinstance(value, (int, float)):
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**limit else "a very large number"
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
    return f"a Python {type(value).__name__}"
