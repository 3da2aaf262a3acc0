"""Single numbers that learn along."""

from __future__ import annotations

from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.objective import Term
from tutelage.types import Outputs

__all__ = ["TemperatureParameter"]


@final
class TemperatureParameter(Companion):
    """A free number, from which a loss makes its temperature; see `losses.curriculum_temperature`."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(initial)))

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        return cls(term.companion["initial"])

    def forward(self, ours: Outputs, seen: Seen) -> Tensor:
        # A parameter itself, handed through a wrapper for many devices, would escape its bookkeeping.
        return self.value * 1.0
