"""Batches in which every example comes with another one of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.draws import Stream, uniform
from tutelage.data.examples import Examples
from tutelage.data.labelled import BatchSource
from tutelage.data.views import Views, view_batch
from tutelage.errors import InputError
from tutelage.types import PARTNER, Batch

__all__ = ["Paired"]


@final
class Paired:
    """The batches of another source, with the view `partner`: for every example another one of the same class.

    Who comes with whom is a function of (seed, epoch, id). An example that is alone in its class comes with itself.

    Args:
        batches: to be paired.
        examples: what they are made of.
        views: what happens to the partners, as to the examples themselves.
        seed: of the draws.

    Raises:
        InputError: the views mix labels, or examples have no single label.
    """

    def __init__(self, batches: BatchSource, examples: Examples, views: Views, *, seed: int) -> None:
        if views.soft_targets or examples.targets.ndim > 1:
            raise InputError(
                "a partner is another example of the same class, but these have no single one",
                fix="turn mixup and cutmix off, or leave out the loss that reads `partner_logits`",
            )
        self._batches, self._examples, self._views, self._seed = batches, examples, views, seed
        targets = examples.targets.numpy()
        order = np.argsort(targets, kind="stable")  # rows, class by class
        self._rows: NDArray[np.int64] = order
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        counts = np.bincount(targets)
        first = np.concatenate([[0], counts.cumsum()[:-1]])
        self._first, self._size, self._place = first[targets], counts[targets], place
        self._sorted = np.argsort(examples.ids.numpy(), kind="stable")
        self._ids = examples.ids.numpy()[self._sorted]

    @property
    def steps_per_epoch(self) -> int:
        """How many batches make an epoch."""
        return self._batches.steps_per_epoch

    def partners(self, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (B,) of the partners of these examples in an epoch."""
        rows = self._sorted[np.searchsorted(self._ids, ids)]
        others = self._size[rows] - 1
        steps = 1 + np.floor(uniform(self._seed, epoch, ids, Stream.SAME_CLASS) * others).astype(np.int64)
        steps = np.where(others > 0, np.minimum(steps, others), 0)
        within = (self._place[rows] - self._first[rows] + steps) % self._size[rows]
        found: NDArray[np.int64] = self._rows[self._first[rows] + within]
        return found

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        for batch in self._batches.epoch(epoch, start=start):
            rows = torch.from_numpy(self.partners(epoch, batch.ids.numpy()))
            # The views of partners are drawn like those of examples, from the same seed.
            shown = view_batch(self._examples, rows, self._views, seed=self._seed, epoch=epoch)
            yield replace(batch, inputs={**batch.inputs, PARTNER: shown.inputs["x"]})
