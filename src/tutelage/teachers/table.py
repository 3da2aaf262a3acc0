"""A table of answers as a teacher: asked once, looked up by content id, never by position."""

from __future__ import annotations

import hashlib
from typing import final

import torch
from torch import Tensor

from tutelage.errors import InputError, MismatchError
from tutelage.types import Batch, Outputs

__all__ = ["TableTeacher"]


@final
class TableTeacher:
    """Logits by content id, in memory.

    Args:
        ids: (N,) int64 content ids, each once.
        logits: (N, C) the answers to these examples, unaugmented.

    Raises:
        InputError: the two do not belong together, or an id comes twice with different answers.
    """

    def __init__(self, ids: Tensor, logits: Tensor) -> None:
        if ids.ndim != 1 or logits.ndim != 2 or len(ids) != len(logits) or not len(ids):
            raise InputError(
                "ids and logits do not belong together",
                given=f"ids {tuple(ids.shape)}, logits {tuple(logits.shape)}",
                expected="(N,) and (N, C), N ≥ 1",
            )
        self._ids, order = torch.sort(ids, stable=True)
        self._logits = logits[order].detach()
        twins = (self._ids[1:] == self._ids[:-1]).nonzero().flatten()
        if len(twins) and not torch.equal(self._logits[twins], self._logits[twins + 1]):
            raise InputError("an id has two different answers", given=f"id {int(self._ids[twins[0]])}")

    def answer(self, batch: Batch) -> Outputs:
        """The stored rows of the batch.

        Raises:
            MismatchError: an example is not in the table, or it was changed by a random view.
        """
        if batch.view:
            raise MismatchError(
                "stored answers belong to plain examples, but this batch has random views",
                fix="turn the views off, or use a live teacher",
            )
        rows = torch.searchsorted(self._ids, batch.ids).clamp_(max=len(self._ids) - 1)
        if not torch.equal(self._ids.index_select(0, rows), batch.ids):
            missing = int((self._ids.index_select(0, rows) != batch.ids).sum())
            raise MismatchError(
                f"{missing} of {len(batch)} examples have no stored answer",
                fix="build the answers from the same data, with the same preprocessing",
            )
        return Outputs(self._logits.index_select(0, rows))

    def fingerprint(self) -> str:
        """SHA-256 over ids and answers."""
        digest = hashlib.sha256()
        for tensor in (self._ids, self._logits):
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Keep the table on this device."""
        self._ids, self._logits = self._ids.to(device), self._logits.to(device)
