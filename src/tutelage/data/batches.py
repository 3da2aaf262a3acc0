"""Batches as a function of (seed, epoch): the same examples in the same order, from any step of an epoch on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.draws import mix
from tutelage.data.examples import Examples, as_model_input
from tutelage.data.views import Views, view_batch
from tutelage.errors import DataError
from tutelage.types import Batch

__all__ = ["Batches", "plain_batches"]

# Below this many bytes a float copy of all inputs is kept, which saves the conversion at every step.
_KEEP_AS_FLOAT = 512 * 2**20


@final
class Batches:
    """Training batches in memory, without worker processes.

    The order of an epoch sorts the examples by a hash of (seed, epoch, id): independent of how the data lies on disk.
    Every example comes once an epoch; a last batch of one would break batch normalisation, so it joins the one before.

    Args:
        examples: to learn from.
        batch_size: at least 2.
        views: what happens to every input, anew at each epoch.
        seed: of order and views.

    Raises:
        DataError: there are fewer than two examples.
    """

    def __init__(self, examples: Examples, *, batch_size: int, views: Views, seed: int) -> None:
        if len(examples) < 2:
            raise DataError("there is nothing to learn from", given=f"{len(examples)} training example(s)")
        views.check(examples)
        self._examples = examples
        self._size = batch_size
        self._views = views
        self._seed = seed
        starts = list(range(0, len(examples), batch_size))
        if len(starts) > 1 and len(examples) - starts[-1] == 1:
            starts.pop()
        self._starts = [*starts, len(examples)]
        small = examples.inputs.numel() * 4 <= _KEEP_AS_FLOAT
        self._floats: Tensor | None = as_model_input(examples.inputs) if small and not views.random else None

    @property
    def steps_per_epoch(self) -> int:
        return len(self._starts) - 1

    def order(self, epoch: int) -> Tensor:
        """The examples' places in the order of an epoch, (N,) int64."""
        return torch.from_numpy(np.argsort(mix(self._seed, epoch, 0x0D4, self._examples.ids.numpy()), kind="stable"))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        order = self.order(epoch)
        examples, floats = self._examples, self._floats
        for step in range(start, self.steps_per_epoch):
            index = order[self._starts[step] : self._starts[step + 1]]
            if self._views.random:
                yield view_batch(examples, index, self._views, seed=self._seed, epoch=epoch)
                continue
            inputs = (
                as_model_input(examples.inputs.index_select(0, index))
                if floats is None
                else floats.index_select(0, index)
            )
            yield Batch(examples.ids.index_select(0, index), {"x": inputs}, examples.targets.index_select(0, index))


def plain_batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """The examples in their own order, without anything random."""
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        inputs = as_model_input(examples.inputs[part])
        yield Batch(examples.ids[part], {"x": inputs}, examples.targets[part])
