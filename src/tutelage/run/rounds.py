"""Which rounds an iteration has: the recipe again and again, with other values at the keys that are adjusted.

    together   train.epochs=5,10,20  width=4,8   ->   (5, 4)  (10, 8)  (20, 8)         the last value stays
    each       train.epochs=5,10     width=4,8   ->   (5, 4)  (5, 8)  (10, 4)  (10, 8)

The order is the one that was written, so whoever writes cheap values first has the cheapest rounds first.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from tutelage.errors import InputError, RecipeError, TutelageError, nearest
from tutelage.recipe import Recipe, dump, from_mapping, resumable
from tutelage.recipe.overrides import parse_value

__all__ = ["ORDERS", "Round", "parse_adjust", "rounds_of", "shown"]

ORDERS = ("together", "each")
_MOST = 999
_ADJUSTABLE = ("train", "student", "students", "arms")
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


@final
@dataclass(frozen=True, slots=True)
class Round:
    """One round before it is run."""

    number: int  # from 1
    values: Mapping[str, Any]  # key -> value, as JSON has it
    recipe: Recipe

    @property
    def words(self) -> str:
        """`train.epochs=5, student.args.width=8`."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.values.items())

    def placed(self, error: TutelageError) -> TutelageError:
        """The same error, saying which round it is about."""
        here = f"round {self.number}, {self.words}"
        problems = error.problems if isinstance(error, RecipeError) else (error.problem,)
        told = [
            # What stands as an override in a recipe was no `--set` here.
            replace(one, where=here if one.where is None or one.where.startswith("--set ") else f"{here}; {one.where}")
            for one in problems
        ]
        if isinstance(error, RecipeError):
            return RecipeError(told)
        error.problem = told[0]
        error.args = (told[0].text(),)
        return error


def rounds_of(recipe: Recipe, adjust: Mapping[str, Sequence[Any]], order: str = "together") -> list[Round]:
    """Every round in its order.

    Args:
        recipe: of all rounds, but for the adjusted keys.
        adjust: dotted keys as `--set` takes them -> values, the cheapest first.
        order: "together" or "each".

    Raises:
        InputError: nothing to adjust, a key that may not be, a value that no recipe could hold, or a round twice.
        RecipeError: a value that its key does not take.
    """
    if order not in ORDERS:
        raise InputError(f"no order `{order}`", expected=" or ".join(ORDERS), fix=nearest(order, ORDERS))
    if not isinstance(adjust, Mapping) or not adjust:
        raise InputError(
            "an iteration needs something to adjust", fix="name a key with its values: --adjust train.epochs=5,10,20"
        )
    lists = {key: _values(key, values) for key, values in adjust.items()}
    if order == "each":
        count = 1
        for values in lists.values():
            count *= len(values)
    else:
        count = max(map(len, lists.values()))
    if count > _MOST:
        raise InputError("too many rounds", given=f"{count:,}", expected=f"at most {_MOST}")
    rows = (
        itertools.product(*lists.values())
        if order == "each"
        else ([values[min(number, len(values) - 1)] for values in lists.values()] for number in range(count))
    )
    made: list[Round] = []
    known: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        one = Round(number, dict(zip(lists, row, strict=True)), recipe)
        one = replace(one, recipe=_adjusted(recipe, one))
        before = known.setdefault(dump(one.recipe), number)
        if before != number:
            raise InputError(
                f"rounds {before} and {number} are the same", given=one.words, fix="write every value once"
            )
        made.append(one)
    return made


def parse_adjust(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`train.epochs=5,10,20` as it is typed: keys with their values, each read as `--set` reads one.

    Raises:
        InputError: not of this form, an empty value, or a key twice.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, written = text.partition("=")
        key, pieces = key.strip(), [piece.strip() for piece in _split(written)]
        if not key or not equals or not all(pieces):
            raise InputError(
                "an adjustment is a key with values", given=f"--adjust {text}",
                expected="KEY=VALUE,VALUE,… such as --adjust train.epochs=5,10,20",
            )  # fmt: skip
        if key in found:
            raise InputError(f"`{key}` is adjusted twice", fix="write all its values in one --adjust")
        found[key] = [parse_value(piece, f"--adjust {text}") for piece in pieces]
    return found


def _split(text: str) -> list[str]:
    """At commas outside brackets and quotes."""
    parts, deep, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        else:
            deep += (letter in _OPENING) - (letter in _CLOSING)
            if letter == "," and deep == 0:
                parts.append("")
                continue
        parts[-1] += letter
    return parts


def _values(key: str, values: Sequence[Any]) -> list[Any]:
    """One key's values as JSON has them, if it may be adjusted at all."""
    root = key.split(".")[0]
    reasons = {
        "data": "rounds are compared on the same examples",
        "seeds": "rounds are compared over the same seeds",
        **dict.fromkeys(("teacher", "teachers", "combine"), "all rounds have the same teacher, which is trained once"),
    }
    same = f"`{key}` cannot be adjusted: {reasons.get(root, 'it changes nothing that a student learns')}"
    known = [*_ADJUSTABLE, *Recipe.model_fields]
    if root not in known:
        raise InputError(f"a recipe has no key `{root}`", where=f"--adjust {key}", fix=nearest(root, known))
    if root not in _ADJUSTABLE or resumable(key):
        raise InputError(same, expected="keys of train, student, students or arms", fix="set it for all with --set")
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence) or not values:
        raise InputError(f"`{key}` needs a list of values", given=repr(values)[:80], expected="such as [5, 10, 20]")
    try:
        read: list[Any] = json.loads(json.dumps(list(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`{key}` has a value that no recipe can hold", given=str(error), expected="numbers, texts, lists, mappings"
        ) from error
    return read


def _adjusted(recipe: Recipe, one: Round) -> Recipe:
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in one.values.items()]
    try:
        return from_mapping(recipe.model_dump(mode="json"), texts)
    except RecipeError as error:
        raise one.placed(error) from error


def shown(value: Any) -> str:
    """A value as a person types it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
