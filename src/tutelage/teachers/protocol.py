"""What the rest of tutelage may ask of a teacher, and how common objects become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

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


def as_teacher(
    teacher: Teacher | nn.Module | Any, places: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Teacher:
    """Make a teacher of a torch module, which answers features at these places as well, or of a model of another
    framework, as `tutelage.teachers.foreign.wrap` does; or pass one through.

    Args:
        teacher: the module, the model or the teacher.
        places: layers whose outputs are answered as features.
        classes: the data's classes in their order, by which a model of another framework is put in order.

    Raises:
        InputError: the object cannot answer.
    """
    from tutelage.teachers.foreign.live import is_live, wrap
    from tutelage.teachers.module import ModuleTeacher

    if not isinstance(teacher, Teacher) and is_live(teacher):
        return wrap(teacher, classes=classes, places=places)
    if isinstance(teacher, nn.Module):
        return ModuleTeacher(teacher, places=places)
    if isinstance(teacher, Teacher):
        return teacher
    raise InputError(
        "this object cannot be a teacher",
        given=type(teacher).__name__,
        expected="a torch.nn.Module, a fitted model of another framework, or an object with answer(batch), "
        "fingerprint() and to(device)",
    )
