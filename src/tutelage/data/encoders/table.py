"""A table as numbers: measurements standardised, categories one column each, and a column where something is missing.

All of it is learned from the rows given to `fit_table`, the training part: means, medians, and which categories there
are. A column that never changes there is left out, and that is told, so that no weight stays at chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.encoders.facts import reading
from tutelage.data.encoders.options import names, real, whole
from tutelage.data.examples import listed
from tutelage.data.rows import Rows
from tutelage.errors import DataError, InputError, nearest

__all__ = ["Category", "Number", "Table", "fit_table", "table_of"]

MOST_CATEGORIES = 1000  # of one column; the rarer ones are "other"
_MOST_ROWS = 10**9

Numbers = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Number:
    """A column of measurements: (value − centre) / scale, and whether it is missing."""

    column: str
    log: bool  # its logarithm is taken first: sign(x) · ln(1 + |x|)
    kept: bool  # whether it has a column of its own; not where all training rows are alike
    centre: float
    scale: float
    fill: float  # takes the place of what is missing: the median of the training rows, as it is written there
    missing: bool  # whether a second column holds 1 where it is missing

    @property
    def names(self) -> list[str]:
        """Of the columns that it becomes."""
        return [self.column] * self.kept + [f"{self.column} is missing"] * self.missing


@final
@dataclass(frozen=True, slots=True)
class Category:
    """A column of names: one column of 0 and 1 for each that was frequent, or (for trees) its place among them."""

    column: str
    known: tuple[str, ...]  # most frequent first
    other: bool  # whether the training rows had rarer ones; those and unseen ones share a column
    missing: bool  # whether the training rows lacked some

    @property
    def names(self) -> list[str]:
        """Of the columns that it becomes, unless it is for trees."""
        rest = [f"{self.column} is another"] * self.other + [f"{self.column} is missing"] * self.missing
        return [f"{self.column} = {name}" for name in self.known] + rest


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a table to numbers (N, D) float32; made by `fit_table` or `table_of`."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    clip: float | None
    trees: bool
    notices: tuple[str, ...]  # what was left out, and why

    @property
    def vocabulary(self) -> int:
        """0: these are no tokens."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(part.column for part in self.numbers) + tuple(part.column for part in self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the D numbers is, in words."""
        return tuple(name for part in self.numbers for name in part.names) + tuple(
            name for part in self.categories for name in ([part.column] if self.trees else part.names)
        )

    @property
    def raw_names(self) -> tuple[str, ...]:
        """Which column each of the D numbers was made of."""
        return tuple(part.column for part in self.numbers for _ in part.names) + tuple(
            part.column for part in self.categories for _ in ([part.column] if self.trees else part.names)
        )

    def undo(self, place: int, value: float) -> float:
        """What a value of the number at this place of a row is in the units of its column; 0 and 1 stay as they are."""
        kept = [part if own else None for part in self.numbers for own in [True] * part.kept + [False] * part.missing]
        part = kept[place] if place < len(kept) else None
        return value if part is None else _unlog(value * part.scale + part.centre, part.log)

    def encode(self, rows: Rows) -> Tensor:
        """The view (N, D) float32.

        Raises:
            InputError: a column is not there, or holds something else.
            DataError: a number is infinite, or too large.
        """
        blocks = [block[:, None] for part in self.numbers for block in self._number(part, rows)]
        for part in self.categories:
            texts = rows.texts(part.column)
            blocks.append(_places(part, texts)[:, None].astype(np.float32) if self.trees else _flags(part, texts))
        return torch.from_numpy(np.concatenate(blocks, axis=1))

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON."""
        return {
            "kind": "table", "numbers": [asdict(part) for part in self.numbers],
            "categories": [{**asdict(part), "known": list(part.known)} for part in self.categories],
            "clip": self.clip, "trees": self.trees, "notices": list(self.notices),
        }  # fmt: skip

    def _number(self, part: Number, rows: Rows) -> list[NDArray[np.float32]]:
        raw = _finite(rows, part.column)
        lost = np.isnan(raw)
        blocks = []
        if part.kept:
            values = (_log(np.where(lost, part.fill, raw), part.log) - part.centre) / part.scale
            if self.clip is not None:
                values = values.clip(-self.clip, self.clip)
            if np.abs(values).max(initial=0.0) > np.finfo(np.float32).max:
                raise DataError(
                    f"the column `{part.column}` holds numbers that are too large", where=rows.name,
                    given=f"up to {np.abs(raw[~lost]).max():g}", fix="mend them, or set `clip`, such as 10",
                )  # fmt: skip
            blocks.append(values.astype(np.float32))
        return blocks + [lost.astype(np.float32)] * part.missing


def fit_table(
    rows: Rows,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    log: Sequence[str] = (),
    rare: int = 20,
    clip: float | None = None,
    trees: bool = False,
) -> Table:
    """Learn from the training rows how a table becomes numbers.

    Args:
        rows: the training part, and nothing else.
        numbers: columns with measurements. Each has mean 0 and standard deviation 1 over the training rows; what is
            missing (NaN) becomes the training median, with a further column of 0 and 1 that says so, where training
            rows lacked some.
        categories: columns with names, one column of 0 and 1 for each; "" is missing.
        log: those of `numbers` that become sign(x) · ln(1 + |x|) first: amounts, counts, all that spans powers of ten.
        rare: categories that fewer training rows have share a column "is another", as unseen ones do.
        clip: standardised numbers beyond ± so many deviations are cut there.
        trees: for learners that cut each column in two: numbers stay in their own units, and a column of categories
            is one column of whole numbers, 0 the most frequent; after them another, then missing.

    Raises:
        InputError: a column is not there, named twice, or holds something else; a setting is out of range.
        DataError: nothing in them can be learned from, or a number is infinite.
    """
    numbers, categories, log = (
        names(option, given, where=rows.name)
        for option, given in (("numbers", numbers), ("categories", categories), ("log", log))
    )
    _check(rows, [*numbers, *categories], log, numbers)
    rare = whole("rare", rare, 1, _MOST_ROWS, where=rows.name)
    clip = None if clip is None else real("clip", clip, 0.0, math.inf, where=rows.name)
    if trees and (log or clip is not None):
        raise InputError(
            "with `trees` numbers stay in their own units", given="`log`" if log else "`clip`",
            fix="leave it out: it would not change where such a learner cuts",
        )  # fmt: skip
    notices: list[str] = []
    measured = tuple(_fit_number(rows, name, log=name in log, trees=trees, notices=notices) for name in numbers)
    named = tuple(_fit_category(rows, name, rare, notices, trees=trees) for name in categories)
    table = Table(measured, tuple(part for part in named if part is not None), clip, bool(trees), tuple(notices))
    if not table.names:
        raise DataError(
            "no column of the table tells rows apart", where=rows.name, given=listed([*numbers, *categories]) or "none",
            fix="name columns with differing values under `numbers` or `categories`; a smaller `rare` keeps more",
        )  # fmt: skip
    return table


def table_of(facts: Mapping[str, Any]) -> Table:
    """A table's encoder made again from its facts.

    Raises:
        DamagedError: they are not whole.
    """
    with reading("table", facts):
        numbers = tuple(Number(**part) for part in facts["numbers"])
        categories = tuple(Category(**{**part, "known": tuple(part["known"])}) for part in facts["categories"])
        for part in numbers:
            assert all(math.isfinite(value) for value in (part.centre, part.scale, part.fill))
            assert part.scale > 0, "a scale is positive"
        clip = None if facts["clip"] is None else float(facts["clip"])
        table = Table(numbers, categories, clip, bool(facts["trees"]), tuple(map(str, facts["notices"])))
        assert table.names, "a table has columns"
        return table


def _check(rows: Rows, columns: Sequence[str], log: Sequence[str], numbers: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError("a column of a table is named twice", where=rows.name, given=listed(twice))
    for name in log:
        if name not in numbers:
            raise InputError(
                f"`log` names a column that is not among `numbers`: {name}", where=rows.name,
                fix=nearest(name, numbers) if numbers else "name it under `numbers` too",
            )  # fmt: skip


def _finite(rows: Rows, column: str) -> Numbers:
    """A column in which only what is missing is no number."""
    raw = rows.numbers(column)
    odd = np.flatnonzero(np.isinf(raw)).tolist()
    if odd:
        raise DataError(
            f"the column `{column}` holds infinite numbers", where=rows.name,
            given=f"row{'s' * (len(odd) > 1)} {listed(odd)} (the first is row 0)",
            fix="mend them, or leave them empty, as missing",
        )  # fmt: skip
    return raw


def _fit_number(rows: Rows, column: str, *, log: bool, trees: bool, notices: list[str]) -> Number:
    raw = _finite(rows, column)
    there = raw[~np.isnan(raw)]
    lacking = 0 < len(there) < len(raw)
    seen = _log(there, log)
    if len(there) == 0 or seen.min() == seen.max():
        notices.append(
            f"the column `{column}` is {there[0]:g} wherever the training part knows it: left out"
            if len(there)
            else f"the training part knows nothing of the column `{column}`: left out"
        )
        return Number(column, log=log, kept=False, centre=0.0, scale=1.0, fill=0.0, missing=lacking)
    fill = float(np.median(there))
    centre, scale = 0.0, 1.0
    if not trees:
        values = _log(np.where(np.isnan(raw), fill, raw), log)
        # Within ±1 first, so that the squares of very large or very small numbers are still numbers.
        most = float(np.abs(values).max())
        centre = most * float((values / most).mean())
        scale = most * float((values / most).std())
    return Number(column, log=log, kept=True, centre=centre, scale=scale, fill=fill, missing=lacking)


def _fit_category(rows: Rows, column: str, rare: int, notices: list[str], *, trees: bool) -> Category | None:
    texts = rows.texts(column)
    counts = Counter(texts)
    lost = counts.pop("", 0)
    # Equally frequent ones by name, so that the order of rows decides nothing.
    frequent = sorted((name for name, count in counts.items() if count >= rare), key=lambda name: (-counts[name], name))
    known = tuple(frequent[:MOST_CATEGORIES])
    if len(frequent) > MOST_CATEGORIES:
        notices.append(
            f"the column `{column}` has {len(frequent):,} frequent categories: the {MOST_CATEGORIES:,} most frequent "
            "are kept apart"
        )
    part = Category(column, known, len(known) < len(counts), lost > 0)
    if len(part.names) < 2:
        notices.append(f"the column `{column}` tells no training rows apart: left out")
        return None
    return part


def _log(values: Numbers, log: bool) -> Numbers:
    return np.sign(values) * np.log1p(np.abs(values)) if log else values


def _unlog(value: float, log: bool) -> float:
    return math.copysign(math.expm1(abs(value)), value) if log else value


def _places(part: Category, texts: Sequence[str]) -> NDArray[np.int64]:
    """The place of each among the known ones; after them another, then missing."""
    last = len(part.known)
    place = {name: number for number, name in enumerate(part.known)} | {"": last + 1}
    return np.fromiter((place.get(text, last) for text in texts), dtype=np.int64, count=len(texts))


def _flags(part: Category, texts: Sequence[str]) -> NDArray[np.float32]:
    """A column of 0 and 1 for each of its names."""
    wanted = [*range(len(part.known)), *[len(part.known)] * part.other, *[len(part.known) + 1] * part.missing]
    columns = np.full(len(part.known) + 2, -1)
    columns[wanted] = np.arange(len(wanted))
    chosen = columns[_places(part, texts)]
    flags = np.zeros((len(texts), len(wanted)), dtype=np.float32)
    flags[chosen >= 0, chosen[chosen >= 0]] = 1.0
    return flags
