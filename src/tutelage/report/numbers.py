"""How a number is written: never more digits than its uncertainty deserves, and never so few that its sign is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.files import human_bytes

Estimate = Mapping[str, Any]  # {value, ci_low, ci_high, n, seeds, method}
MISSING = "–"


def minus(text: str) -> str:
    """A hyphen before a number becomes a minus sign."""
    return text.replace("-", "−")


def decimals(estimate: Estimate, scale: float = 100.0, least: int = 1, most: int = 3) -> int:
    """Digits after the point so that an interval shows its width, and no end that is not 0 is written as 0."""
    ends = [abs(end * scale) for end in (estimate["ci_low"], estimate["ci_high"]) if end]
    width = (estimate["ci_high"] - estimate["ci_low"]) * scale if len(ends) == 2 else 0.0
    found = least
    while found < most and (any(round(end, found) == 0 for end in ends) or 0 < width < 4 * 10**-found):
        found += 1
    return found


def percent(share: float | None, digits: int = 1) -> str:
    """`0.912` -> `91.2 %`."""
    return MISSING if share is None else minus(f"{share * 100:.{digits}f} %")


def points(share: float | None, digits: int = 1, *, unit: bool = True) -> str:
    """A difference of shares in percentage points with its sign: `0.011` -> `+1.1 pp`."""
    if share is None:
        return MISSING
    text = f"{share * 100:+.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return minus(text) + (" pp" if unit else "")


def points_interval(estimate: Estimate) -> str:
    """`+0.5…+1.7`."""
    if estimate["ci_low"] is None:
        return MISSING
    digits = decimals(estimate)
    return f"{points(estimate['ci_low'], digits, unit=False)}…{points(estimate['ci_high'], digits, unit=False)}"


def interval(estimate: Estimate, scale: float = 100.0, least: int = 1) -> str:
    """`90.9…91.5`, or a dash where there is none."""
    if estimate["ci_low"] is None:
        return MISSING
    digits = decimals(estimate, scale, least)
    return minus(f"{estimate['ci_low'] * scale:.{digits}f}…{estimate['ci_high'] * scale:.{digits}f}")


def spread(estimate: Estimate) -> str:
    """Percent with half the interval: `91.2 ± 0.3`, or `91.2` where there is no interval; without the unit."""
    value = f"{estimate['value'] * 100:.1f}"
    if estimate["ci_low"] is None:
        return value
    digits = decimals(estimate)
    # The longer side: an end that stopped at 100 % says nothing of the spread.
    half = max(estimate["ci_high"] - estimate["value"], estimate["value"] - estimate["ci_low"]) * 100
    return f"{estimate['value'] * 100:.{digits}f} ± {half:.{digits}f}"


def times(ratio: float | None) -> str:
    """`9.14` -> `9.1×`, `23.7` -> `24×`."""
    if ratio is None:
        return MISSING
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def against(ratio: float | None, more: str, less: str, same: str) -> str:
    """A ratio in words, whichever way it points: `9.1× smaller`, `1.4× larger`, `the same size`."""
    if ratio is None:
        return MISSING
    if 0.95 < ratio < 1.05:
        return same
    return f"{times(ratio)} {more}" if ratio > 1 else f"{times(1 / ratio)} {less}"


def milliseconds(value: float | None) -> str:
    """Three significant digits: `0.0421 ms`, `3.15 ms`, `128 ms`."""
    return MISSING if value is None else f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return minus(f"{value:,.{places}f}")


def p_value(p: float | None) -> str:
    """`p = 0.03` or `p < 0.001`."""
    if p is None:
        return MISSING
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(number: float | None) -> str:
    """`1234567` -> `1,234,567`; a mean of counts keeps one digit."""
    if number is None:
        return MISSING
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def duration(seconds: float) -> str:
    """`3661` -> `1 h 1 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(number: int, word: str) -> str:
    """`1 seed`, `3 seeds`, `2 classes`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}{'es' if word.endswith('s') else 's'}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and all others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def size(byte_count: float | None) -> str:
    """`1536` -> `1.5 KiB`."""
    return MISSING if byte_count is None else human_bytes(byte_count)
