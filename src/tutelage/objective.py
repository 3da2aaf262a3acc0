"""A method is a sentence: losses, how much each weighs, at what temperature, and when.

A term's needs are the names of its loss's positional parameters (`student_logits`, `teacher_logits`, `target`,
`labels`): nothing is declared twice, and a function from anywhere can be a term. `NEEDS` lists the words understood.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.schedules import Schedule, as_schedule, is_constant
from tutelage.types import Batch, Outputs, Step

__all__ = ["NEEDS", "Objective", "Term", "read_view", "title_of"]

NEEDS: Mapping[str, str] = {
    "student_logits": "the student's logits, (B, C)",
    "teacher_logits": "the teacher's logits, (B, C) or its k largest",
    "target": "labels (B,), or probabilities (B, C) where examples are mixed",
    "labels": "labels (B,); not to be had where examples are mixed",
}

Loss = Callable[..., Tensor]


@final
@dataclass(frozen=True, eq=False)
class Term:
    """One loss with its weight, its temperature and its fixed options.

    Args:
        loss: a function whose positional parameters are named from `NEEDS`, returning a scalar.
        weight: a number or a schedule; where it is exactly 0 the loss is not computed.
        temperature: a number or a schedule > 0, for losses that have a keyword of that name; None keeps their default.
        name: what reports call it; the loss's name by default.
        options: further keywords of the loss.

    Raises:
        InputError: the loss reads something unknown, or does not take the temperature or an option.
    """

    loss: Loss
    weight: float | Schedule = 1.0
    temperature: float | Schedule | None = None
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        title = self.name or title_of(self.loss)
        parameters = inspect.signature(self.loss).parameters.values()
        reads = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        takes = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "mask"}
        weight = as_schedule(self.weight)
        temperature = None if self.temperature is None else as_schedule(self.temperature)
        for unknown in sorted(set(reads) - set(NEEDS)):
            raise InputError(
                f"the loss `{title}` reads `{unknown}`, which no step provides",
                expected="positional parameters named " + ", ".join(NEEDS),
                fix="rename the parameter, or make it keyword-only and pass it as an option",
            )
        for unknown in sorted(set(self.options) - takes):
            raise InputError(
                f"the loss `{title}` has no option `{unknown}`",
                expected="one of " + (", ".join(sorted(takes)) or "none"),
            )
        if "temperature" in self.options:
            raise InputError(
                f"the temperature of `{title}` is not an option", fix="give it to the term: Term(loss, temperature=…)"
            )
        if temperature is not None and "temperature" not in takes:
            raise InputError(f"the loss `{title}` has no temperature", given=temperature.name, fix="leave it out")
        if temperature is not None and temperature.least <= 0:
            raise InputError(
                f"the temperature of `{title}` must stay above 0", given=temperature.name, expected="a number > 0"
            )
        set_(self, "name", title)
        set_(self, "weight", weight)
        set_(self, "temperature", temperature)
        set_(self, "options", dict(self.options))
        set_(self, "needs", reads)

    needs: tuple[str, ...] = field(init=False, default=())

    @property
    def reads_teacher(self) -> bool:
        """Whether it reads what a teacher says."""
        return any(need.startswith("teacher_") for need in self.needs)

    @property
    def temperatures(self) -> tuple[float, float] | None:
        """The least and the greatest temperature at which it reads logits; None where it has no temperature."""
        if isinstance(self.temperature, Schedule):
            return self.temperature.least, self.temperature.greatest
        default = inspect.signature(self.loss).parameters.get("temperature")
        return None if default is None else (float(default.default), float(default.default))

    @property
    def moves(self) -> bool:
        """Whether its weight or temperature depends on progress."""
        schedules = (self.weight, self.temperature)
        return any(isinstance(schedule, Schedule) and not is_constant(schedule) for schedule in schedules)


@final
class Objective:
    """Terms, and how they add up: `total = Σ weight · loss`.

    Args:
        terms: at least one; two of the same name are told apart by a number.

    Raises:
        InputError: there is no term.
    """

    def __init__(self, terms: Sequence[Term | Loss]) -> None:
        if not terms:
            raise InputError("an objective needs at least one term", fix="for instance [Term(cross_entropy)]")
        self.terms = tuple(term if isinstance(term, Term) else Term(term) for term in terms)
        names = [str(term.name) for term in self.terms]
        self.names = tuple(_distinct(names))
        self.needs = frozenset(need for term in self.terms for need in term.needs)
        self.moves = any(term.moves for term in self.terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says."""
        return any(term.reads_teacher for term in self.terms)

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch, *, progress: float = 0.0) -> Step:
        """Add up one batch.

        Args:
            student: the student's outputs, with their graph.
            teacher: the teacher's outputs on the same views, or None where no term reads them.
            batch: where the targets are.
            progress: 0 at the first step of training, 1 at the end.

        Returns:
            The total with its graph, and each term's value before weighting; a term of weight 0 is left out.

        Raises:
            InputError: a term needs what is not there.
        """
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for name, term in zip(self.names, self.terms, strict=True):
            weight = term.weight(progress) if isinstance(term.weight, Schedule) else term.weight
            if weight == 0.0:
                continue
            keywords = dict(term.options)
            if isinstance(term.temperature, Schedule):
                keywords["temperature"] = term.temperature(progress)
            value = term.loss(*[_read(need, student, teacher, batch) for need in term.needs], **keywords)
            parts[name] = value.detach()
            part = value if weight == 1.0 else value * weight
            total = part if total is None else total + part
        if total is None:
            # Every weight is 0 just now: a zero that still has a graph keeps any training loop working.
            logits = student.logits
            assert isinstance(logits, Tensor)
            total = torch.zeros((), device=logits.device) * logits.sum()
        return Step(total, parts)


def title_of(loss: Loss) -> str:
    """What to call a loss: its name, or that of the function that a partial wraps, or of its type."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with numbers behind those that come twice, none of them taken already."""
    found: list[str] = []
    for name in names:
        number, free = 1, name if names.count(name) == 1 else f"{name}-1"
        while free in found or (free != name and free in names):
            number += 1
            free = f"{name}-{number}"
        found.append(free)
    return found


def read_view(batch: Batch, name: str) -> Tensor:
    """One of a batch's input views.

    Raises:
        InputError: it has none of that name.
    """
    if name not in batch.inputs:
        raise InputError(f"the batch has no view `{name}`", given=", ".join(batch.inputs) or "no views", fix="name one")
    return batch.inputs[name]


def _read(need: str, student: Outputs, teacher: Outputs | None, batch: Batch) -> object:
    if need == "student_logits":
        return student.logits
    if need == "teacher_logits":
        if teacher is None:
            raise InputError(
                "a term reads the teacher's logits, but there is no teacher", fix="pass one, or drop the term"
            )
        return teacher.logits
    if need == "labels" and batch.target.ndim > 1:
        raise InputError(
            "a term reads labels, but mixed examples have none",
            given=f"targets of shape {tuple(batch.target.shape)}",
            fix="turn mixup and cutmix off, or use a loss that reads `target`",
        )
    return batch.target
