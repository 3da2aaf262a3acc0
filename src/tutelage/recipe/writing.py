"""A recipe written out with every default, so that it runs again as it is, and what two recipes do differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tutelage.recipe import problems
from tutelage.recipe.scalars import resolve
from tutelage.recipe.schema import Recipe

_HEADER = """\
# The recipe as it was run, with every default written out; it runs again as it is.
"""
_ABSENT = object()


class _Dumper(yaml.SafeDumper):
    """Quotes what would read as something else under the rules of YAML 1.2, and writes everything out in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    reads_back = resolve(value) == value and value != "<<"
    # Line breaks of every kind survive only as escapes, which need double quotes.
    style = '"' if not value.isprintable() else None if reads_back else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(recipe: Recipe) -> str:
    """The whole recipe as YAML: reading it gives an equal recipe.

    Seeds that were drawn by chance stand in it as numbers.
    """
    return _HEADER + yaml.dump(
        recipe.model_dump(mode="json"),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=110,
    )


def diff(a: Recipe, b: Recipe) -> list[str]:
    """What changed from `a` to `b`, one line for each key: `train.lr: 0.001 → 0.01`."""
    return list(_changes(a.model_dump(mode="json"), b.model_dump(mode="json"), ""))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **problems.schema()}


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    """Dotted keys as `--set` takes them, as deep as both sides go."""
    if old == new:
        return
    before, after = _children(old), _children(new)
    if not before or not after:
        yield f"{path}: {_shown(old)} → {_shown(new)}"
        return
    for key in dict.fromkeys((*before, *after)):
        yield from _changes(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{path}.{key}" if path else str(key))


def _children(value: Any) -> dict[Any, Any]:
    """What lies below a value; a list of plain values is one value."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return dict(enumerate(value))
    return {}


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
