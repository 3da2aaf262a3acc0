"""Numbers that may move while training goes on: what a recipe writes for a weight or a temperature.

Either a number, or a mapping such as `{schedule: linear, start: 8, end: 2}`, which builds a function of progress.
"""

from __future__ import annotations

import abc
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from tutelage import schedules
from tutelage.recipe.kinds import Finite, NotNegative, Positive, Probability, Section, words


class ScheduleSpec(Section, abc.ABC):
    """A number that moves while training goes on, written as a mapping."""

    @abc.abstractmethod
    def build(self) -> schedules.Schedule:
        """The function of progress that this describes."""


class Constant(ScheduleSpec):
    """The same throughout."""

    schedule: Literal["constant"]
    value: Finite

    def build(self) -> schedules.Schedule:
        return schedules.constant(self.value)


class Linear(ScheduleSpec):
    """A straight line from `start` to `end`."""

    schedule: Literal["linear"]
    start: Finite
    end: Finite

    def build(self) -> schedules.Schedule:
        return schedules.linear(self.start, self.end)


class Cosine(ScheduleSpec):
    """Half a cosine from `start` to `end`."""

    schedule: Literal["cosine"]
    start: Finite
    end: Finite

    def build(self) -> schedules.Schedule:
        return schedules.cosine(self.start, self.end)


class WarmUp(ScheduleSpec):
    """From 0 to `value` in a straight line until the share `until` of training, then constant."""

    schedule: Literal["warm_up"]
    value: Finite
    until: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]

    def build(self) -> schedules.Schedule:
        return schedules.warm_up(self.value, self.until)


class Piecewise(ScheduleSpec):
    """Straight lines through points `[progress, value]`."""

    schedule: Literal["piecewise"]
    points: Annotated[
        tuple[Annotated[tuple[Probability, Finite], Field(strict=False), words("a pair [progress, value]")], ...],
        Field(strict=False, min_length=1),
        words("a list of pairs [progress, value]"),
    ]

    @field_validator("points")
    @classmethod
    def _rising(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        schedules.piecewise(points)
        return points

    def build(self) -> schedules.Schedule:
        return schedules.piecewise(self.points)


AnySchedule = Annotated[Constant | Linear | Cosine | WarmUp | Piecewise, Field(discriminator="schedule")]
# Which of the two is meant is decided by shape before anything is checked, so that a message speaks of one only.
NUMBER, SCHEDULE = "=number", "=schedule"
_either = Discriminator(lambda value: SCHEDULE if isinstance(value, (dict, ScheduleSpec)) else NUMBER)
Weight = Annotated[Annotated[NotNegative, Tag(NUMBER)] | Annotated[AnySchedule, Tag(SCHEDULE)], _either]
Temperature = Annotated[Annotated[Positive, Tag(NUMBER)] | Annotated[AnySchedule, Tag(SCHEDULE)], _either]
