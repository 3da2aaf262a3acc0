"""Rows of columns: what text, tables, sound and pairs of these are, before a model's inputs are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError, InputError, nearest

__all__ = ["Column", "Rows"]

Column = NDArray[Any]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """N rows; a column holds N texts (object array of str, "" where missing), N numbers (float64, NaN where missing),
    N pictures (uint8, (N, C, H, W)), N sounds (float32, (N, samples), −1 … 1), or N lists of numbers (float32, (N, D)).
    """

    name: str
    columns: Mapping[str, Column]
    rates: Mapping[str, int] = field(default_factory=dict)  # of columns with sound: samples per second
    hint: str = ""  # what brings columns that are not there

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError("columns differ in length", where=self.name, given=str(lengths))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, where: str | None = None) -> Column:
        """One column.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.columns:
            raise InputError(
                f"there is no column `{name}`", where=where or self.name,
                expected="one of " + ", ".join(self.columns), fix=self.hint or nearest(name, self.columns),
            )  # fmt: skip
        return self.columns[name]

    def texts(self, name: str, where: str | None = None) -> list[str]:
        """A column as text; numbers are written as they are read, 3.0 as 3.

        Raises:
            InputError: there is no such column, or it holds neither texts nor single numbers.
        """
        column = self.column(name, where)
        if column.ndim != 1:
            raise InputError(f"the column `{name}` is no text", where=where or self.name, given=f"shape {column.shape}")
        if column.dtype.kind == "f":
            return ["" if np.isnan(value) else f"{value:.17g}" for value in column.tolist()]
        return [str(value) for value in column.tolist()]

    def numbers(self, name: str, where: str | None = None) -> NDArray[np.float64]:
        """A column as numbers, NaN where they are missing.

        Raises:
            InputError: there is no such column, or it holds no numbers.
        """
        column = self.column(name, where)
        if column.ndim != 1 or column.dtype.kind not in "fiub":
            raise InputError(
                f"the column `{name}` holds no numbers", where=where or self.name,
                given=f"{column.dtype}, shape {column.shape}", fix="name it under `categories`",
            )  # fmt: skip
        return column.astype(np.float64)

    def followed_by(self, other: Rows) -> Rows:
        """These rows, then those of another part of the same set."""
        both = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        return Rows(self.name, both, self.rates, self.hint)

    def take(self, index: NDArray[np.int64] | Sequence[int]) -> Rows:
        """Some of them, in the order of `index`."""
        chosen = np.asarray(index, dtype=np.int64)
        return Rows(self.name, {name: column[chosen] for name, column in self.columns.items()}, self.rates, self.hint)
