"""What a student remembers of single examples."""

from __future__ import annotations

import math
from typing import Self, final

import torch
import torch.distributed as processes
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.errors import InputError
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
        rows = torch.searchsorted(self.ids, seen.batch.ids).clamp(max=len(self.ids) - 1)
        if not torch.equal(self.ids[rows], seen.batch.ids):
            raise InputError(
                "a batch holds examples that are none of the training part",
                fix="pass known=(ids, targets) of all training examples when making the Distiller",
            )
        past = self.memory[rows]
        assert isinstance(ours.logits, Tensor)
        now = as_float(ours.logits).softmax(-1).to(self.memory.dtype)
        for where, what in _everyones(rows, now):
            self.memory[where] = what
        return past


def _everyones(rows: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What all processes have to write, in the same order in each: every one sees only its share of the batch."""
    if not (processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1):
        return [(rows, values)]
    shares: list[tuple[Tensor, Tensor]] = [(rows, values)] * processes.get_world_size()
    processes.all_gather_object(shares, (rows.cpu(), values.cpu()))  # shares differ in length
    return [(where.to(rows.device), what.to(values.device)) for where, what in shares]
