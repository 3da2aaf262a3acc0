"""Pseudo-labels: what a teacher says of plain examples, asked once, and only where it is sure."""

from __future__ import annotations

import hashlib
from typing import final

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.types import Batch, Outputs

__all__ = ["PseudoTeacher", "sure_rows"]


def sure_rows(logits: Tensor, *, confidence: float = 0.0, per_class: int | None = None) -> Tensor:
    """Which answers to keep, (N,) bool.

    Args:
        logits: (N, C), finite.
        confidence: keep those whose largest probability is at least this.
        per_class: of these no more than so many for every answered class, the surest; None keeps all. Of equally sure
            ones the first.

    Reference: Xie et al., "Self-training with noisy student improves ImageNet classification", CVPR 2020,
    arXiv 1911.04252, which keeps 0.3 and 130,000 for each class of ImageNet.
    """
    sure, answered = logits.double().softmax(-1).max(-1)
    kept = sure >= confidence
    if per_class is not None:
        for label in range(logits.shape[-1]):
            rows = (kept & (answered == label)).nonzero().flatten()
            order = sure[rows].argsort(descending=True, stable=True)
            kept[rows[order[per_class:]]] = False
    return kept


@final
class PseudoTeacher:
    """Answers by content id with what was said of the plain example, whatever the view is now.

    So the teacher's answer is free of noise and the student's input is not; for answers to the very view use the
    teacher itself.

    Args:
        ids: (N,) int64 content ids.
        logits: (N, C) what was said of them; of copies of one content the first is taken.
        kept: (N,) bool; the others have an answer that does not count.

    Raises:
        InputError: they do not belong together.
    """

    def __init__(self, ids: Tensor, logits: Tensor, kept: Tensor) -> None:
        if not (ids.ndim == 1 and logits.ndim == 2 and len(ids) == len(logits) == len(kept) > 0):
            raise InputError(
                "ids and answers do not belong together",
                given=f"ids {tuple(ids.shape)}, logits {tuple(logits.shape)}, kept {tuple(kept.shape)}",
                expected="(N,), (N, C) and (N,), N ≥ 1",
            )
        self._ids, order = torch.sort(ids, stable=True)
        self._logits, self._kept = logits[order].detach(), kept[order]

    def answer(self, batch: Batch) -> Outputs:
        """The kept logits (B, C), and which of them count; an example that was never asked about does not."""
        rows = torch.searchsorted(self._ids, batch.ids).clamp_(max=len(self._ids) - 1)
        known = self._ids.index_select(0, rows) == batch.ids
        return Outputs(self._logits.index_select(0, rows), counts=known & self._kept.index_select(0, rows))

    def fingerprint(self) -> str:
        """SHA-256 over ids, answers and which of them count."""
        digest = hashlib.sha256()
        for tensor in (self._ids, self._logits, self._kept):
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Keep the answers on this device."""
        self._ids, self._logits, self._kept = (one.to(device) for one in (self._ids, self._logits, self._kept))
