"""What the rest of tutelage may ask of a teacher, and how common objects become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tutelage.errors import InputError
from tutelage.types import Batch, Outputs

__all__ = ["Teacher", "as_teacher"]


@runtime_checkable
class Teacher(Protocol):
    """Answers batches, never learns, and can prove that it has not changed."""

    def answer(self, batch: Batch) -> Outputs:
        """Logits for every example of the batch, (B, C), without a graph."""
        ...

    def fingerprint(self) -> str:
        """A digest of all that decides its answers; the same before and after a run."""
        ...

    def to(self, device: torch.device) -> None:
        """Answer on this device from now on."""
        ...


def as_teacher(teacher: Teacher | nn.Module, places: Sequence[str] = ()) -> Teacher:
    """Make a teacher of a torch module, which answers features at these places as well, or pass one through.

    Raises:
        InputError: the object cannot answer.
    """
    from tutelage.teachers.module import ModuleTeacher

    if isinstance(teacher, nn.Module):
        return ModuleTeacher(teacher, places=places)
    if isinstance(teacher, Teacher):
        return teacher
    raise InputError(
        "this object cannot be a teacher",
        given=type(teacher).__name__,
        expected="a torch.nn.Module, or an object with answer(batch), fingerprint() and to(device)",
    )
