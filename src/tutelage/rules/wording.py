"""The questions of rules, for a person to read and for Python to run.

One column is one question, however often the tree asked about it: 9.5 < hour ≤ 15.5, carrier not in (AA, UA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.rules.features import Feature

__all__ = ["condition", "source"]

_MOST_NAMED = 8  # values of a column that a question lists for a person

_HEAD = '''def number(row, column, missing=None):
    value = row.get(column)
    if value is not None and value == value:
        return value
    if missing is None:
        raise KeyError(column)
    return missing


def text(row, column):
    value = row.get(column)
    if value is None or value != value:
        return ""
    return f"{value:.17g}" if isinstance(value, (int, float)) else str(value)


def classify(row):
    """A row (column -> value, None where it is missing) to its class and the probability of that."""'''

Limits = Mapping[int, tuple[float, float]]


def condition(features: Sequence[Feature], limits: Limits) -> str:
    """`hour > 15.5 and carrier ≠ UA`; empty where nothing is asked."""
    return " and ".join(_asked(features, limits, _Person()))


def source(features: Sequence[Feature], classes: Sequence[str], rules: Sequence[Any], title: str) -> str:
    """A Python file with a function `classify(row)`, which needs nothing else.

    Args:
        features, classes: of the rules.
        rules: with limits, probabilities and a label.
        title: one line about them.
    """
    lines = [f'"""{_safe(title)}"""\n\n\n{_HEAD}']
    for rule in rules:
        asked = " and ".join(_asked(features, rule.limits, _Python())) or repr(True)
        says = f"{classes[rule.label]!a}, {rule.probabilities[rule.label]:.6g}"
        lines += [_code("    if", f"{asked}:"), _code("        return", says)]
    return "\n".join([*lines, _code("    raise", "LookupError(row)"), ""])


def _code(*words: str) -> str:
    """Words of Python, which no other language translates."""
    return " ".join(words)


def _safe(text: str) -> str:
    """Text that ends no docstring and begins no escape, whatever names say."""
    return text.replace("\\", "/").replace('"', "'").replace("\n", " ")


class _Person:
    """Questions in words."""

    exact = False  # what no training row lacked is not said to be there

    def between(self, one: Feature, above: float, most: float) -> str:
        unit = f" {one.unit}" if one.unit else ""
        if math.isinf(most):
            return f"{one.name} > {_short(above)}{unit}"
        if math.isinf(above):
            return f"{one.name} ≤ {_short(most)}{unit}"
        return f"{_short(above)} < {one.name} ≤ {_short(most)}{unit}"

    def is_missing(self, one: Feature, yes: bool) -> str:
        return f"{one.column} is {'missing' if yes else 'known'}"

    def among(self, column: str, values: Sequence[str], yes: bool, missing: bool | None) -> str:
        more = len(values) - _MOST_NAMED
        shown = ", ".join(values[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        if not values:
            said = ""
        elif len(values) == 1:
            said = f"{column} {'=' if yes else '≠'} {shown}"
        else:
            said = f"{column} {'in' if yes else 'not in'} ({shown})"
        if missing is None:
            return said
        if not said:
            return f"{column} is {'missing' if missing else 'known'}"
        return f"({said} or missing)" if missing else f"({said} and known)"


class _Python:
    """Questions in Python, about `row`."""

    exact = True

    def between(self, one: Feature, above: float, most: float) -> str:
        value = _code("number(row,", ", ".join([ascii(one.column), *([repr(one.fill)] * (one.fill is not None))])) + ")"
        if math.isinf(most):
            return f"{value} > {above!r}"
        return f"{value} <= {most!r}" if math.isinf(above) else f"{above!r} < {value} <= {most!r}"

    def is_missing(self, one: Feature, yes: bool) -> str:
        return _code("text(row,", f"{one.column!a})", "==" if yes else "!=", "''")

    def among(self, column: str, values: Sequence[str], yes: bool, missing: bool | None) -> str:
        value = _code("text(row,", f"{column!a})")
        listed = "(" + "".join(f"{one!a}, " for one in values) + ")"
        said = _code(value, *(["in"] if yes else ["not", "in"]), listed)
        if missing is None:
            return said
        return "(" + _code(said, *(["or", value, "=="] if missing else ["and", value, "!="]), "'')")


def _asked(features: Sequence[Feature], limits: Limits, how: _Person | _Python) -> list[str]:
    """The questions in their order, those about one column of categories as one."""
    found: dict[str, str] = {}
    for place, (above, most) in limits.items():
        one = features[place]
        if one.kind == "number":
            found[f"{place}"] = how.between(one, above, most)
        elif one.kind == "code":
            found[one.column] = _of_codes(one, above, most, how)
        elif one.column not in found:
            own = {at: ends for at, ends in limits.items() if features[at].column == one.column}
            found[one.column] = _of_flags(features, own, how)
    return list(found.values())


def _of_flags(features: Sequence[Feature], own: Limits, how: _Person | _Python) -> str:
    """Columns of 0 and 1 that were made of one column: which of its values are asked for, or ruled out."""
    yes = {place: above > 0 for place, (above, _) in own.items() if features[place].kind != "number"}
    named = {"level": [], "another": [], "missing": []}  # type: dict[str, list[int]]
    for place in yes:
        named[features[place].kind].append(place)
    column = features[next(iter(yes))].column
    lacks = how.exact or any(one.kind == "missing" and one.column == column for one in features)
    sure = [place for place, said in yes.items() if said]
    if sure:  # one value is asked for, so what else is ruled out says nothing more
        one = features[sure[0]]
        if one.kind == "missing":
            return how.is_missing(one, True)
        if one.kind == "level":
            return how.among(one.column, [one.level], True, None)
        return how.among(one.column, one.known, False, False if lacks else None)
    out = [features[place].level for place in named["level"]]
    if named["another"]:  # only known values are left
        left = [value for value in features[named["another"][0]].known if value not in out]
        return how.among(column, left, True, None if named["missing"] or not lacks else True)
    if named["missing"] and not out:
        return how.is_missing(features[named["missing"][0]], False)
    return how.among(column, out, False, False if named["missing"] else None)


def _of_codes(one: Feature, above: float, most: float, how: _Person | _Python) -> str:
    """A column of places among the known values; behind them another value, then a missing one."""
    known = len(one.known)
    inside = [above < place <= most for place in range(known + 2)]
    missing, another = inside[known + 1], inside[known]
    if another:
        out = [value for value, said in zip(one.known, inside, strict=False) if not said]
        return how.among(one.column, out, False, None if missing else False)
    values = [value for value, said in zip(one.known, inside, strict=False) if said]
    return how.among(one.column, values, True, True if missing else None)


def _short(value: float) -> str:
    return f"{value:.15g}".replace("-", "−")
