"""Numbers that may move while training goes on: what a recipe writes for a weight or a temperature.

Either a number, or a mapping such as `{schedule: linear, start: 8, end: 2}`, which builds a function of progress.
"""

from __future__ import annotations

import abc
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

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


class Switch(ScheduleSpec):
    """`before` until the share `at` of training, then `after`: distilling that ends early, or begins late."""

    schedule: Literal["switch"]
    before: Finite
    after: Finite
    at: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]

    def build(self) -> schedules.Schedule:
        return schedules.switch(self.before, self.after, self.at)


Watched = Literal["accuracy", "nll", "agreement"]


class Plateau(ScheduleSpec):
    """From `start`, times `factor` whenever validation was no better for `patience` epochs."""

    schedule: Literal["plateau"]
    start: Finite
    factor: Positive
    least: Finite
    greatest: Finite
    watch: Watched = "accuracy"
    patience: Annotated[int, Field(ge=1)] = 1

    @field_validator("patience")
    @classmethod
    def _in_range(cls, patience: int, info: ValidationInfo) -> int:
        values = info.data
        if {"start", "factor", "least", "greatest", "watch"} <= set(values):
            schedules.plateau(patience=patience, **{key: values[key] for key in values if key != "schedule"})
        return patience

    def build(self) -> schedules.Schedule:
        return schedules.plateau(
            self.start, self.factor, watch=self.watch, patience=self.patience, least=self.least, greatest=self.greatest
        )


class Follow(ScheduleSpec):
    """A straight line from `low` to `high`, pairs [watched number, value]: it follows the last epoch's validation."""

    schedule: Literal["follow"]
    low: Annotated[tuple[Finite, Finite], Field(strict=False), words("a pair [watched number, value]")]
    high: Annotated[tuple[Finite, Finite], Field(strict=False), words("a pair [watched number, value]")]
    watch: Watched = "agreement"

    @field_validator("high")
    @classmethod
    def _rising(cls, high: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if "low" in info.data:
            schedules.follow(info.data["low"], high)
        return high

    def build(self) -> schedules.Schedule:
        return schedules.follow(self.low, self.high, watch=self.watch)


AnySchedule = Annotated[
    Constant | Linear | Cosine | WarmUp | Piecewise | Switch | Plateau | Follow, Field(discriminator="schedule")
]
# Which of the two is meant is decided by shape before anything is checked, so that a message speaks of one only.
NUMBER, SCHEDULE = "=number", "=schedule"
_either = Discriminator(lambda value: SCHEDULE if isinstance(value, (dict, ScheduleSpec)) else NUMBER)
Weight = Annotated[Annotated[NotNegative, Tag(NUMBER)] | Annotated[AnySchedule, Tag(SCHEDULE)], _either]
Temperature = Annotated[Annotated[Positive, Tag(NUMBER)] | Annotated[AnySchedule, Tag(SCHEDULE)], _either]
