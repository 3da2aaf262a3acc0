"""Lists of ids such as what somebody bought, as tokens; 0 is padding and stands behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.encoders.facts import reading, shape_of
from tutelage.data.encoders.options import LONGEST, whole
from tutelage.data.rows import Rows
from tutelage.errors import DataError

__all__ = ["Ids", "fit_ids", "ids_of"]

_UNKNOWN: Final = 1


@final
@dataclass(frozen=True, slots=True)
class Ids:
    """A column of ids separated by spaces to tokens (N, L) int32: 0 padding, 1 rare or never seen, then the others
    from the most frequent one. Of a longer list the last ones stay, as the latest of a history tell most."""

    columns: tuple[str, ...]
    length: int
    known: tuple[str, ...]

    @property
    def vocabulary(self) -> int:
        """Padding, the unknown one and all known ones."""
        return len(self.known) + 2

    def encode(self, rows: Rows) -> Tensor:
        """(N, length) int32."""
        numbers = {name: number for number, name in enumerate(self.known, start=2)}
        texts = rows.texts(self.columns[0])
        found = np.zeros((len(texts), self.length), dtype=np.int32)
        for row, text in enumerate(texts):
            last = [numbers.get(one, _UNKNOWN) for one in text.split()[-self.length :]]
            found[row, : len(last)] = last
        return torch.from_numpy(found)

    def facts(self) -> dict[str, Any]:
        """Its ids in their order."""
        return {"kind": "ids", "columns": list(self.columns), "length": self.length, "known": list(self.known)}


def fit_ids(rows: Rows, column: str, *, length: int = 64, rare: int = 1) -> Ids:
    """The ids of a column, each of which these rows hold at least `rare` times.

    Raises:
        InputError: a size that cannot be; no such column.
        DataError: there are no such ids.
    """
    whole("length", length, 1, LONGEST, where=rows.name)
    whole("rare", rare, 1, 2**31, where=rows.name)
    counts = Counter(one for text in rows.texts(column) for one in text.split())
    known = sorted((one for one, count in counts.items() if count >= rare), key=lambda one: (-counts[one], one))
    if not known:
        raise DataError(f"the column `{column}` holds no ids", where=rows.name, expected="ids separated by spaces")
    return Ids((column,), length, tuple(known))


def ids_of(facts: Mapping[str, Any]) -> Ids:
    """What `Ids.facts` tells.

    Raises:
        DamagedError: that is not what these are.
    """
    with reading("ids", facts):
        known = facts["known"]
        if not isinstance(known, list) or len(facts["columns"]) != 1:
            raise TypeError("known")
        if not all(isinstance(one, str) for one in known) or not 0 < len(set(known)) == len(known):
            raise ValueError("known")
        return Ids(*shape_of(facts), tuple(known))
