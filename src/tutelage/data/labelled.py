"""Training parts of which only some examples have labels: a share of those that have them, or a pool that has none.

An example without a label keeps its place in batches and views; the losses that read labels leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.draws import Stream, mix
from tutelage.data.examples import Examples
from tutelage.errors import InputError
from tutelage.types import Batch

__all__ = ["BatchSource", "PartlyLabelled", "labelled_ids"]


class BatchSource(Protocol):
    """Batches by epoch, from any step of it on."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


def labelled_ids(examples: Examples, share: float) -> Tensor:
    """The ids (K,) int64, in rising order, of the examples whose labels are kept: this share of every class, one at
    least. Which ones follows from their ids alone.

    Raises:
        InputError: the share is not in (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise InputError("the share of labelled examples is out of range", given=f"{share:g}", expected="in (0, 1]")
    words = mix(0, Stream.LABELLED, examples.ids.numpy())
    targets = examples.targets.numpy()
    kept = []
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        kept.append(rows[np.argsort(words[rows], kind="stable")[: max(1, round(share * len(rows)))]])
    return torch.from_numpy(np.unique(examples.ids.numpy()[np.concatenate(kept)]))


@final
class PartlyLabelled:
    """The batches of another source, which say of every example whether it has a label.

    Args:
        batches: to be marked.
        ids: (K,) int64, rising, of the examples that have one.
    """

    def __init__(self, batches: BatchSource, ids: Tensor) -> None:
        self._batches, self._ids = batches, ids

    @property
    def steps_per_epoch(self) -> int:
        """How many batches make an epoch."""
        return self._batches.steps_per_epoch

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        for batch in self._batches.epoch(epoch, start=start):
            yield replace(batch, labelled=torch.isin(batch.ids, self._ids))
