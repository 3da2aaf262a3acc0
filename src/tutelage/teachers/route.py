"""A teacher as it was on its way: states of its own training, one after the other, from easy to hard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch

from tutelage.errors import InputError
from tutelage.teachers.protocol import Teacher
from tutelage.types import Batch, Outputs

__all__ = ["RouteTeacher"]


@final
class RouteTeacher:
    """Answers as the anchor that it has come to.

    Args:
        anchors: states of one teacher, the earliest first; each answers for an equal share of the student's training.

    Raises:
        InputError: there is none.
    """

    def __init__(self, anchors: Sequence[Teacher]) -> None:
        if not anchors:
            raise InputError("a route has no anchors", expected="at least one state of a teacher")
        self.anchors = tuple(anchors)
        self._now = 0

    def walk(self, progress: float) -> None:
        """Answer from now on as the anchor for this point of training, 0 at the first step and 1 at the end."""
        self._now = min(int(progress * len(self.anchors)), len(self.anchors) - 1)

    def answer(self, batch: Batch) -> Outputs:
        """What the present anchor says, (B, C)."""
        return self.anchors[self._now].answer(batch)

    def fingerprint(self) -> str:
        """SHA-256 over those of all anchors, whichever answers."""
        return hashlib.sha256(" ".join(one.fingerprint() for one in self.anchors).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Move every anchor."""
        for one in self.anchors:
            one.to(device)
