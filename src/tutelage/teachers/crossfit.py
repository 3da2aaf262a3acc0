"""A teacher that answers about no example it learned from: several of a kind, each asked about the others' part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data import Examples
from tutelage.data.draws import Stream, mix
from tutelage.errors import InputError
from tutelage.teachers.protocol import Teacher
from tutelage.types import Batch, Outputs

__all__ = ["CrossFitted", "fold_numbers"]


def fold_numbers(train: Examples, folds: int) -> NDArray[np.int64]:
    """In which of K folds each training example is, (N,), 0 … K − 1; examples of one group or one content share it.

    Raises:
        InputError: some fold would be empty.
    """
    keys, ids = train.ids if train.groups is None else train.groups, train.ids.numpy()
    found = (mix(0, Stream.CROSS_FIT, keys.numpy()) % np.uint64(folds)).astype(np.int64)
    # Examples stand in the order of their ids: a content that stands in several groups goes with the first of them.
    found = found[np.searchsorted(ids, ids)]
    if (counts := np.bincount(found, minlength=folds)).min() == 0:
        raise InputError(
            "a fold of the teacher's has no example", given=f"{folds} folds of {counts.tolist()} examples",
            expected="fewer folds, or more examples",
        )  # fmt: skip
    return found


@final
class CrossFitted:
    """What a teacher says of an example that it learned from is mostly the label; what others of its kind say that
    never saw the example is what it would say of a new one (Dao, Kamath, Syrgkanis, Mackey 2021, "Knowledge
    Distillation as Semiparametric Inference", ICLR, arXiv 2104.09732, section 4).

    Args:
        whole: learned from all training examples; answers about every other example.
        parts: K teachers, of which the k-th learned from all folds but k.
        ids: (N,) content ids of the training examples.
        folds: (N,) the fold of each, as `fold_numbers` says.
    """

    def __init__(self, whole: Teacher, parts: Sequence[Teacher], ids: Tensor, folds: NDArray[np.int64]) -> None:
        self.whole, self.parts = whole, tuple(parts)
        index = np.argsort(ids.numpy(), kind="stable")
        self.ids, self.folds = ids.numpy()[index], np.asarray(folds)[index]

    def answer(self, batch: Batch) -> Outputs:
        """Logits (B, C) without a graph; each row is its own teacher's, asked about the whole batch, so that the rows
        of a batch do not change with their company.

        Raises:
            InputError: somebody answers with something else than all logits.
        """
        ids = batch.ids.cpu().numpy()
        at = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        fold = torch.from_numpy(np.where(self.ids[at] == ids, self.folds[at], -1))
        logits: Tensor | None = None
        for number in sorted(set(fold.tolist())):
            told = (self.whole if number < 0 else self.parts[number]).answer(batch)
            said = told.logits
            if not isinstance(said, Tensor) or told.counts is not None:
                given = type(said).__name__ if told.counts is None else "rows that do not count"
                raise InputError("a cross-fitted teacher answers with all logits", given=given)
            chosen = (fold == number).to(said.device).unsqueeze(1)
            logits = said if logits is None else torch.where(chosen, said, logits)
        assert logits is not None
        return Outputs(logits)

    def fingerprint(self) -> str:
        """A digest of all of them, and of who answers about whom."""
        facts = [*(one.fingerprint() for one in (self.whole, *self.parts)), self.division]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def division(self) -> str:
        """A digest of who answers about whom."""
        return hashlib.sha256(self.ids.tobytes() + self.folds.tobytes()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Answer on this device from now on."""
        for one in (self.whole, *self.parts):
            one.to(device)
