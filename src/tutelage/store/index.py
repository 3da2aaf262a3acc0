"""From (view, id) to the place of a row: by the id itself, never by position.

Ids are hashes, so their first bits already say nearly where they stand in sorted order: a table over these bits and two
more looks find almost all of them in a tenth of the time of a binary search. What is not found so is searched for, and
every place is checked against the id before it is believed.
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError

__all__ = ["Index"]

Ints = NDArray[np.int64]
_LOOKS = 2
_MOST_BITS = 24


@final
class Index:
    """Rows by view and id.

    Args:
        ids: (N,) content ids, ≥ 0.
        views: (N,) view numbers.

    Raises:
        DamagedError: two rows answer to the same view of the same example.
    """

    def __init__(self, ids: Ints, views: Ints) -> None:
        self.order: Ints = np.lexsort((ids, views))
        self._ids, sorted_views = ids[self.order], views[self.order]
        if len(ids) and bool(np.any((np.diff(self._ids) == 0) & (np.diff(sorted_views) == 0))):
            raise DamagedError("the store has two rows for one view of one example", fix="tutelage cache repair RECIPE")
        numbers, starts = np.unique(sorted_views, return_index=True)
        ends = [*starts[1:], len(ids)] if len(ids) else []
        self._ranges = {int(n): (int(a), int(b)) for n, a, b in zip(numbers, starts, ends, strict=True)}
        self._tables: dict[int, _Table] = {}

    @property
    def views(self) -> list[int]:
        return list(self._ranges)

    def ids_of(self, view: int) -> Ints:
        """The ids that have a row for a view, sorted."""
        start, end = self._ranges.get(view, (0, 0))
        return self._ids[start:end]

    def find(self, ids: Ints, view: int) -> Ints | None:
        """Places in `order` of the rows for these ids (B,); None where one of them has none."""
        table = self._tables.get(view)
        if table is None:
            if view not in self._ranges:
                return None
            # Epochs follow each other, each with its view: the tables of long-past ones only take memory.
            if len(self._tables) >= 2:
                del self._tables[next(iter(self._tables))]
            table = self._tables[view] = _Table(self.ids_of(view), self._ranges[view][0])
        return table.find(ids)

    def missing(self, ids: Ints, view: int) -> Ints:
        """Those of sorted unique ids that have no row for a view."""
        return np.setdiff1d(ids, self.ids_of(view), assume_unique=True)


@final
class _Table:
    """Where in a sorted run of ids to look first."""

    def __init__(self, ids: Ints, start: int) -> None:
        self._start = start
        self._count = len(ids)
        # Something to look at behind the end, which is no id that anybody could ask for and find there first.
        self._ids = np.concatenate([ids, np.full(_LOOKS + 1, ids[-1], dtype=np.int64)])
        bits = min(_MOST_BITS, max(1, int(8 * len(ids) - 1).bit_length()))
        self._shift = np.int64(63 - bits)
        self._first = np.searchsorted(ids, np.arange(1 << bits, dtype=np.int64) << self._shift).astype(np.int32)

    def find(self, ids: Ints) -> Ints | None:
        # A negative id is no content id, and would wrap around the table.
        place = self._first.take(ids >> self._shift, mode="clip").astype(np.int64)
        for _ in range(_LOOKS):
            place += self._ids.take(place) != ids
        # Bytes are compared in one call, where a comparison and its summary would be two.
        if self._ids.take(place).tobytes() != ids.tobytes():
            wrong = self._ids.take(place) != ids
            place[wrong] = np.searchsorted(self._ids[: self._count], ids[wrong])
            if (self._ids.take(place) != ids).any():
                return None
        return place + self._start if self._start else place
