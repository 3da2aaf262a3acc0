"""A teacher that reads another view of the examples than students do: the English text beside the German one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import final

import torch

from tutelage.objective import read_view
from tutelage.teachers.protocol import Teacher
from tutelage.types import Batch, Outputs

__all__ = ["Reading"]


@final
class Reading:
    """Shows a teacher its own view as if it were the students'.

    Args:
        teacher: whom to ask.
        view: what it reads of a batch.
    """

    def __init__(self, teacher: Teacher, view: str) -> None:
        self.teacher, self.view = teacher, view

    def answer(self, batch: Batch) -> Outputs:
        """What the teacher says of its view, without a graph.

        Raises:
            InputError: the batch has no such view.
        """
        # Nothing random happens to the views of others, so to this teacher every batch is a plain one.
        return self.teacher.answer(replace(batch, inputs={"x": read_view(batch, self.view)}, view=0))

    def fingerprint(self) -> str:
        """A digest of the teacher's own, and of what it reads."""
        return hashlib.sha256("\n".join([self.teacher.fingerprint(), self.view]).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Answer on this device from now on."""
        self.teacher.to(device)
