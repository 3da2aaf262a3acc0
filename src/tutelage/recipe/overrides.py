"""`--set train.epochs=3`: one value of a recipe replaced from outside, and plain mappings from Python made a tree.

A value is read as YAML reads a scalar, or a list or mapping in brackets; it is never evaluated.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tutelage.errors import InputError, Problem, RecipeError
from tutelage.recipe.places import FIRST_OVERRIDE, Keys, Located, Place, Places, dotted
from tutelage.recipe.reader import MAX_DEPTH, Tree, read_text
from tutelage.recipe.scalars import resolve, show

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> Tree:
    """A new tree with `key=value` texts applied in order: of two for the same key the later wins.

    Raises:
        InputError: one is not of the form `key=value`, or points below something that holds no keys.
    """
    if isinstance(overrides, str):
        raise InputError("overrides are a list of texts", given=show(overrides), fix=f"write [{overrides!r}]")
    places = Places(tree.places.source, dict(tree.places.at))
    new = Tree(copy.deepcopy(tree.values), places, list(tree.problems))
    problems = [problem for order, text in enumerate(overrides) if (problem := _apply(new, text, order)) is not None]
    if problems:
        raise RecipeError(problems)
    return new


def _apply(tree: Tree, text: str, order: int) -> Problem | None:
    key, equals, written = text.partition("=")
    key = key.strip()
    shown = " ".join(text.split())
    where = f"--set {shown if len(shown) <= 80 else shown[:79] + '…'}"
    if not equals or not _KEY.fullmatch(key):
        return Problem("an override is `key=value`", given=f"--set {show(text)}", fix="such as --set train.epochs=3")
    keys: Keys = tuple(key.split("."))
    parent: Any = tree.values
    for depth, name in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(parent, list):
            index = int(name) if str(name).isdecimal() else -1
            if not 0 <= index < len(parent):
                have = f"items 0 … {len(parent) - 1}" if parent else "no items"
                return Problem(f"`{dotted(keys[:depth])}` has no item `{name}`", where, expected=have)
            keys = (*keys[:depth], index, *keys[depth + 1 :])
            step: str | int = index
        elif isinstance(parent, dict):
            step = str(name)
        else:
            return Problem(f"`{dotted(keys[:depth])}` is {show(parent)}: nothing lies below it", where)
        if last:
            try:
                parent[step] = parse_value(written, where)
            except RecipeError as error:
                return error.problems[0]
        else:
            # A section that is absent, empty or all defaults (`store: auto`) is opened, so that
            # `--set data.views.flip=0.5` needs no `views:` before.
            if isinstance(parent, dict) and parent.get(str(step)) in (None, "auto"):
                parent[str(step)] = {}
            parent = parent[step]
    tree.places.forget(keys)
    tree.places.at[keys] = Place(FIRST_OVERRIDE + order, where)
    return None


def parse_value(written: str, where: str) -> Any:
    """The value of an override: brackets and quotes as in YAML, everything else one plain scalar.

    Raises:
        RecipeError: the brackets or quotes do not close, or hold something that YAML refuses.
    """
    written = written.strip()
    if not written.startswith(("[", "{", '"', "'")):
        return resolve(written)
    try:
        tree = read_text(f"value: {written}", where)
        if list(tree.values) != ["value"]:
            raise RecipeError([Problem("not valid YAML", where)])
    except RecipeError as error:
        found = error.problems[0]
        fix = "put quotes around the whole, so that the shell leaves it alone"
        raise RecipeError([Problem(found.what, where, given=show(written), fix=fix)]) from error
    if tree.problems:
        raise RecipeError([Problem(tree.problems[0].problem.what, where)])
    return tree.values["value"]


def from_plain(mapping: Mapping[str, Any]) -> Tree:
    """A tree from a Python mapping: mappings, sequences and paths become what a file could have held."""
    if not isinstance(mapping, Mapping):
        raise InputError("a recipe is a mapping of keys to values", given=show(mapping), expected="a dict")
    problems: list[Located] = []
    values = _plain(mapping, (), problems)
    return Tree(values, Places(), problems)


def _plain(value: object, keys: Keys, problems: list[Located]) -> Any:
    if len(keys) > MAX_DEPTH:
        raise InputError(f"this recipe is nested deeper than {MAX_DEPTH} levels", where=dotted(keys[:4]) + "…")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                within = f" in `{dotted(keys)}`" if keys else ""
                problems.append(Located(0, Problem(f"a key must be text{within}: {show(key)}")))
        return {k: _plain(v, (*keys, k), problems) for k, v in value.items() if isinstance(k, str)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*keys, index), problems) for index, item in enumerate(value)]
    return str(value) if isinstance(value, PurePath) else value
