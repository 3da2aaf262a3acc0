"""Batches as a function of (seed, epoch): the same examples in the same order, from any step of an epoch on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.balance import balanced
from tutelage.data.draws import Stream, mix
from tutelage.data.examples import Examples
from tutelage.data.tasks import further_targets
from tutelage.data.views import Views, view_batch
from tutelage.errors import DataError, InputError
from tutelage.types import Batch

__all__ = ["Batches", "plain_batches"]


@final
class Batches:
    """Training batches in memory, without worker processes.

    The order of an epoch sorts the examples by a hash of (seed, epoch, id): independent of how the data lies on disk.
    Every example comes once an epoch, unless classes are balanced; a last batch of one would break batch normalisation,
    so it joins the one before.

    A batch has one number for the views of all its examples. Where balancing repeats an example, the epoch is therefore
    cut into passes of as many batches as hold no example twice, and each pass draws views of its own: what comes again
    looks different, unless a class has fewer examples than its share of a single batch.

    Args:
        examples: to learn from.
        batch_size: at least 2; a smaller set is one batch.
        views: what happens to every input, anew at each epoch.
        seed: of order and views.
        recorded: draw the views of an epoch from this many recorded ones, those of seed 0's first epochs, in turn;
            0 draws new ones for every seed and epoch.
        balance: "over" repeats examples of rare classes until all are as frequent as the most frequent one, "under"
            shows a part of the frequent classes, another one in every epoch; "none" shows every example once.

    Raises:
        DataError: there are fewer than two examples.
        InputError: the batch size is below 2, the views do not go with the data, or there is no such balance.
    """

    def __init__(
        self, examples: Examples, *, batch_size: int, views: Views, seed: int, recorded: int = 0, balance: str = "none"
    ) -> None:
        if len(examples) < 2:
            raise DataError("there is nothing to learn from", given=f"{len(examples)} training example(s)")
        if batch_size < 2 or batch_size % 1:
            raise InputError("the batch size is out of range", given=batch_size, expected="a whole number ≥ 2")
        views.check(examples)
        self._examples = examples
        self._views = views
        self._seed = seed
        self._recorded = recorded
        self._sample = balanced(examples, balance, seed=seed)
        self._count = len(examples if self._sample is None else self._sample)
        full, rest = divmod(self._count, batch_size)
        self._sizes = [batch_size] * full + [rest] * (rest > 0)
        if rest == 1 and full:
            self._sizes[-2:] = [batch_size + 1]
        apart = None if self._sample is None else self._sample.apart(batch_size)
        self._apart = len(self._sizes) if apart is None else apart
        self._batch_size = batch_size

    @property
    def steps_per_epoch(self) -> int:
        """How many batches make an epoch."""
        return len(self._sizes)

    @property
    def passes(self) -> int:
        """In how many views of its own an epoch shows what it repeats; 1 where it repeats nothing."""
        return -(-len(self._sizes) // self._apart)

    def order(self, epoch: int) -> Tensor:
        """The examples' places in the order of an epoch, (N,) int64; N of the balanced epoch where there is one."""
        words = mix(self._seed, epoch, Stream.ORDER, self._examples.ids.numpy())
        if self._sample is None:
            return torch.from_numpy(np.argsort(words, kind="stable"))
        rows = self._sample.rows(epoch)
        # Shuffled within a pass, so that no example comes into a pass where it stands already.
        passes = np.arange(self._count) // (self._apart * self._batch_size)
        return torch.from_numpy(rows[np.lexsort((words[rows], passes))])

    def draw(self, epoch: int, part: int = 0) -> tuple[int, int]:
        """The (seed, epoch) from which the views of a pass of an epoch are drawn."""
        number = epoch * self.passes + part
        # Seeds start at different views, so that two cohorts do not meet the same ones in the same epoch.
        return (0, (self._seed + number) % self._recorded) if self._recorded else (self._seed, number)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        examples, views = self._examples, self._views
        order = self.order(epoch)
        parts = torch.split(order, self._sizes)[start:]
        if views.random:
            for step, index in enumerate(parts, start):
                seed, drawn = self.draw(epoch, step // self._apart)
                yield view_batch(examples, index, views, seed=seed, epoch=drawn)
            return
        # Everything that is small is put in order once, so that a step gathers nothing but its inputs.
        ids = torch.split(examples.ids.index_select(0, order), self._sizes)[start:]
        targets = torch.split(examples.targets.index_select(0, order), self._sizes)[start:]
        for index, own, target in zip(parts, ids, targets, strict=True):
            further = further_targets(examples, index)
            yield Batch(own, examples.seen(index), target, tasks=further)


def plain_batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """The examples in their own order, without anything random.

    Raises:
        InputError: the batch size is below 1.
    """
    if batch_size < 1 or batch_size % 1:
        raise InputError("the batch size is out of range", given=batch_size, expected="a whole number ≥ 1")
    for start in range(0, len(examples), batch_size):
        # Copies, as `index_select` makes them: a model may work in place, and the examples are still needed.
        index = torch.arange(start, min(start + batch_size, len(examples)))
        own, target = examples.ids.index_select(0, index), examples.targets.index_select(0, index)
        yield Batch(own, examples.seen(index), target, tasks=further_targets(examples, index))
