"""A copy of a student that follows it: its moving average, or itself as it was some steps ago."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import nn

from tutelage.sources import Ema
from tutelage.teachers.module import ModuleTeacher
from tutelage.types import Batch, Outputs

__all__ = ["MovingTeacher"]


@final
class MovingTeacher:
    """Answers as a frozen copy of a student, which is brought up to date between steps.

    Args:
        student: whose copy it is; not changed.
        decay: of the moving average; see `sources.Ema`.
        every: follow at every so many steps only; with decay 0 a copy that is renewed.
        places: layers whose outputs are answered as features.
    """

    def __init__(self, student: nn.Module, *, decay: float = 0.0, every: int = 1, places: Sequence[str] = ()) -> None:
        Ema(decay)  # refuses what is no decay
        self.module = copy.deepcopy(student)
        self.decay = decay
        self.every = every
        self._teacher = ModuleTeacher(self.module, places=places)

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int) -> None:
        """Move towards the student after step number `step`: a function of both states and the number, nothing else.

        Weights and statistics are averaged; counters are taken as they are.
        """
        if (step + 1) % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.module.state_dict(), student.state_dict()
        for name, value in ours.items():
            if value.is_floating_point():
                value.lerp_(theirs[name].to(value.dtype), 1.0 - decay)
            else:
                value.copy_(theirs[name])

    def answer(self, batch: Batch) -> Outputs:
        """Logits (B, C) in eval mode, without a graph."""
        with torch.no_grad():
            return self._teacher.answer(batch)

    def fingerprint(self) -> str:
        """That of its present state; it moves with its student."""
        return self._teacher.fingerprint()

    def to(self, device: torch.device) -> None:
        """Move the copy."""
        self._teacher.to(device)
