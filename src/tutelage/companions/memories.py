"""What a student remembers of single examples."""

from __future__ import annotations

import math
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.known import everyones, rows_of
from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.losses.targets import as_float
from tutelage.objective import Term
from tutelage.types import Outputs

__all__ = ["PastProbabilities"]


@final
class PastProbabilities(Companion):
    """The probabilities that this student gave each example when it last saw it; see `losses.progressive`.

    Args:
        ids: (N,) int64 of all training examples; several of the same id are one.
        classes: C.
    """

    memory: Tensor  # (N, C) float32, NaN where an example was never seen
    ids: Tensor  # (N,) int64, rising

    def __init__(self, ids: Tensor, classes: int) -> None:
        super().__init__()
        known = torch.unique(ids)
        self.register_buffer("memory", torch.full((len(known), classes), math.nan))
        # Known again from the data when a run goes on.
        self.register_buffer("ids", known, persistent=False)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        assert isinstance(ours.logits, Tensor)
        return cls(around.ids[0], ours.logits.shape[-1])

    @torch.no_grad()
    def forward(self, ours: Outputs, seen: Seen) -> Tensor:
        rows = rows_of(seen.batch.ids, self.ids)
        past = self.memory[rows]
        assert isinstance(ours.logits, Tensor)
        now = as_float(ours.logits).softmax(-1).to(self.memory.dtype)
        for where, what in everyones(rows, now):
            self.memory[where] = what
        return past
