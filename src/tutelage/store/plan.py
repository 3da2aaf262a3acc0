"""Which rows a store should hold: every example, in every view that will be asked for.

none      plain examples, one row each
K         K recorded views of each, those that seed 0 would draw in its first K epochs
replay    every view that the given seeds and epochs will draw, as if the teacher were live
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from tutelage.data import Examples, Views, view_batch, view_number
from tutelage.errors import InputError
from tutelage.store.index import Index, Ints
from tutelage.store.layout import BLOCK
from tutelage.types import Batch

__all__ = ["Draw", "Question", "Rows", "draws_of", "number_of", "shards_of"]

Draw = tuple[int, int] | None  # (seed, epoch) of a random view; None for the plain example
_LEAST_ROWS = 4096
_MOST_SHARDS = 64
_FILLED = 32


def draws_of(views: str | int, random: Views, *, seeds: Sequence[int] = (0,), epochs: int = 1) -> list[Draw]:
    """The draws that a choice of views stands for.

    Args:
        views: "none", "replay", or a number of recorded views.
        random: what may happen to an input.
        seeds: of the runs that will replay.
        epochs: of these runs.

    Raises:
        InputError: plain answers are asked for while the views are random.
    """
    if not random.random:
        return [None]
    if views == "none":
        raise InputError(
            "answers to plain examples would be matched with random views of them",
            where="teacher.store.views",
            given="views: none, while data.views are random",
            expected="answers to the very views that the student sees",
            fix="record some views of each example, which then serve any number of epochs (`views: 4`), or record "
            "every view that the seeds and epochs of the recipe will draw (`views: replay`)",
        )
    if views == "replay":
        return [(seed, epoch) for seed in seeds for epoch in range(epochs)]
    if not isinstance(views, int) or views < 1:
        raise InputError("no such choice of views", given=views, expected="none, replay, or a number ≥ 1")
    return [(0, epoch) for epoch in range(views)]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Examples with the draws in which a teacher is asked about them."""

    examples: Examples
    views: Views
    draws: Sequence[Draw]
    _order: Ints = field(init=False)

    def __post_init__(self) -> None:
        # Examples lie in the order of their ids, unless somebody took some of them in another.
        object.__setattr__(self, "_order", np.argsort(self.examples.ids.numpy(), kind="stable"))

    def ids(self) -> Ints:
        """Every content id once, sorted."""
        return np.unique(self.examples.ids.numpy())

    def rows(self, index: Index | None = None) -> Rows:
        """All rows, or those that an index lacks: view by view, by id."""
        everything = self.ids()
        ids, draws = [], []
        for number, draw in enumerate(self.draws):
            wanted = everything if index is None else index.missing(everything, number_of(draw))
            ids.append(wanted)
            draws.append(np.full(len(wanted), number, dtype=np.int64))
        # From the whole question, so that the rows of a lost shard make one shard again.
        most = max(_LEAST_ROWS, -(-len(everything) * len(self.draws) // _MOST_SHARDS))
        views = [number_of(draw) for draw in self.draws]
        return Rows(np.concatenate(ids), np.concatenate(draws), views, -(-most // BLOCK) * BLOCK)

    def batch(self, ids: Ints, draw: Draw) -> Batch:
        """These examples as they look in a draw."""
        known = self.examples.ids.numpy()
        places = torch.from_numpy(self._order[np.searchsorted(known, ids, sorter=self._order)])
        if draw is not None:
            return view_batch(self.examples, places, self.views, seed=draw[0], epoch=draw[1])
        examples = self.examples
        return Batch(
            examples.ids.index_select(0, places), examples.seen(places), examples.targets.index_select(0, places)
        )

    def filled(self, ids: Ints, draw: Draw) -> Batch:
        """As `batch`, with rows repeated behind a short one: kernels for a few rows may round differently."""
        return self.batch(np.resize(ids, max(len(ids), _FILLED)), draw)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows to be computed, cut into shards."""

    ids: Ints
    draws: Ints  # number in the question's draws
    views: Sequence[int]  # the view number of every draw
    shard_rows: int

    def __len__(self) -> int:
        return len(self.ids)

    def shards(self) -> list[slice]:
        return shards_of(len(self), self.shard_rows)

    def columns(self) -> dict[str, Tensor]:
        """As they are written into a plan: what one builder needs to see that another works on the same."""
        numbers = np.array(self.views, dtype=np.int64)[self.draws]
        return {
            "id": torch.from_numpy(self.ids),
            "view": torch.from_numpy(numbers),
            "shard_rows": torch.tensor([self.shard_rows]),
        }


def shards_of(rows: int, each: int) -> list[slice]:
    return [slice(start, min(start + each, rows)) for start in range(0, rows, each)]


def number_of(draw: Draw) -> int:
    return 0 if draw is None else view_number(*draw)
