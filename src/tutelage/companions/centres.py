"""The centre of what a teacher says, for `losses.self_consistent`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.known import everyones
from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.errors import InputError
from tutelage.losses.targets import dense
from tutelage.objective import Term
from tutelage.types import Outputs

__all__ = ["Centre"]


@final
class Centre(Companion):
    """A running mean of the logits that the term's source gives: c ← m · c + (1 − m) · their mean, after each batch.

    Args:
        classes: C.
        momentum: m in [0, 1).

    Reference: Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021, arXiv 2104.14294, equation 4.
    """

    centre: Tensor  # (C,) float32

    def __init__(self, classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(classes))

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            InputError: the momentum is out of range.
        """
        return cls(dense(ours.logits, "a centre").shape[-1], momentum_of(term))

    def forward(self, ours: Outputs, seen: Seen) -> Tensor:
        """(C,), as it was before this batch."""
        return self.centre.clone()

    @torch.no_grad()
    def hear(self, told: Sequence[Outputs]) -> None:
        for answer in told:
            logits = dense(answer.logits, "a centre").to(self.centre.dtype).flatten(0, -2)
            counts = torch.ones_like(logits[:, 0]) if answer.counts is None else answer.counts.to(logits.dtype)
            # What does not count may hold anything.
            rows = torch.where(counts.unsqueeze(-1) > 0, logits, 0.0)
            shares = everyones(torch.cat([rows.sum(0), counts.sum().view(1)]))
            whole = torch.stack([share for (share,) in shares]).sum(0)
            mean = torch.where(whole[-1] > 0, whole[:-1] / whole[-1].clamp(min=1.0), self.centre)
            self.centre.lerp_(mean, 1.0 - self.momentum)


def momentum_of(term: Term) -> float:
    """The setting `momentum` of what remembers.

    Raises:
        InputError: it is out of range.
    """
    momentum = term.companion["momentum"]
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0.0 <= momentum < 1.0:
        raise InputError(
            "the momentum of what is remembered is out of range", given=momentum, expected="a number in [0, 1)"
        )
    return float(momentum)
