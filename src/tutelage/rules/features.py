"""What the numbers that a model reads are to a person: columns, categories, pixels, each in its own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.data import Examples
from tutelage.data.encoders import encoder_of
from tutelage.data.encoders.table import Table
from tutelage.errors import InputError, nearest

__all__ = ["KINDS", "Feature", "features_of", "in_units", "values_of"]

Floats = NDArray[np.float64]
# number: a quantity · level: 1 where a column has this value · another: 1 where it has none of the known ones ·
# missing: 1 where it has none · code: the place of its value among the known ones; then another, then missing
KINDS = ("number", "level", "another", "missing", "code")


@final
@dataclass(frozen=True, slots=True)
class Feature:
    """One number of an example, in the unit in which rules speak of it."""

    name: str
    kind: str = "number"  # one of KINDS
    column: str = ""  # of the table; the name where there is no table
    level: str = ""  # of a level: the value
    known: tuple[str, ...] = ()  # of a code and of another: the values that have a name, in their order
    fill: float | None = None  # of a number: what stands for it where it is missing
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """What differs from a plain number."""
        said = {key: value for key, value in asdict(self).items() if value not in ("", (), None)}
        return {key: list(value) if key == "known" else value for key, value in said.items()}


def features_of(examples: Examples, units: Mapping[str, str] | None = None) -> tuple[Feature, ...]:
    """What the D numbers of each example are.

    Args:
        examples: of numbers: a table, words, pictures, or anything float32.
        units: column -> its unit, such as {"distance": "km"}.

    Raises:
        InputError: the examples are tokens or text, or a unit is of no column.
    """
    if examples.vocabulary or (str(examples.inputs.dtype) == "torch.uint8" and examples.inputs.ndim == 2):
        raise InputError(
            "rules speak of numbers, and these examples are text", where=examples.name,
            expected="a table, words, or another view of numbers", fix="make a view with `words: 1000` of the text",
        )  # fmt: skip
    found = _named(examples)
    units = units or {}
    columns = list(dict.fromkeys(one.column for one in found))
    for name in units:
        if name not in columns:
            raise InputError(
                f"there is no column `{name}` to give a unit", where=examples.name, fix=nearest(name, columns)
            )
    return tuple(
        Feature(one.name, one.kind, one.column, one.level, one.known, one.fill, units.get(one.column, ""))
        if one.kind == "number" else one
        for one in found
    )  # fmt: skip


def values_of(examples: Examples) -> Floats:
    """The examples (N, D) in the units of their features."""
    return in_units(examples.inputs.flatten(1).double().numpy(), examples.encodings.get(examples.reads))


def in_units(inputs: Floats, encoding: Mapping[str, Any] | None) -> Floats:
    """Numbers as a model reads them (N, D), in the units of the columns that they were made of."""
    encoder = encoder_of(encoding) if encoding and encoding.get("kind") == "table" else None
    if not isinstance(encoder, Table):
        return inputs
    values = inputs.copy()
    for place, one in enumerate(_of_table(encoder)):
        if one.kind == "number":
            different, which = np.unique(inputs[:, place], return_inverse=True)
            values[:, place] = np.array([encoder.undo(place, value) for value in different.tolist()])[which]
    return values


def _named(examples: Examples) -> list[Feature]:
    encoding = examples.encodings.get(examples.reads, {})
    kind = encoding.get("kind")
    if kind == "table":
        encoder = encoder_of(encoding)
        assert isinstance(encoder, Table)
        return _of_table(encoder)
    if kind == "words":
        return [Feature(f"‘{word}’", column=f"‘{word}’") for word in encoding["words"]]
    shape = examples.shape
    if str(examples.inputs.dtype) == "torch.uint8":
        names = [
            (f"channel {c + 1} " if shape[0] > 1 else "") + f"pixel {row + 1}/{column + 1}"
            for c, row, column in np.ndindex(*shape)
        ]
    else:
        names = ["x[" + ",".join(map(str, place)) + "]" for place in np.ndindex(*shape)]
    return [Feature(name, column=name) for name in names]


def _of_table(table: Table) -> list[Feature]:
    """One for each of the table's numbers, in its order."""
    found = []
    for number in table.numbers:
        if number.kept:
            found.append(Feature(number.column, "number", number.column, fill=number.fill))
        if number.missing:
            found.append(Feature(f"{number.column} is missing", "missing", number.column))
    for part in table.categories:
        if table.trees:
            found.append(Feature(part.column, "code", part.column, known=part.known))
            continue
        found += [Feature(f"{part.column} = {name}", "level", part.column, name) for name in part.known]
        if part.other:
            found.append(Feature(f"{part.column} is another", "another", part.column, known=part.known))
        if part.missing:
            found.append(Feature(f"{part.column} is missing", "missing", part.column))
    return found
