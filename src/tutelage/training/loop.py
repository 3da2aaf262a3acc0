"""The one loop: a cohort of arms sees the same batches, the same views and one teacher pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

from torch import nn

from tutelage.sources import Source
from tutelage.teachers import Teacher
from tutelage.teachers.route import RouteTeacher
from tutelage.training.arm import Arm
from tutelage.training.device import Device
from tutelage.training.peers import groups, heard
from tutelage.types import Batch, Outputs

__all__ = ["Batches", "Cohort", "Listener", "Moment", "fit"]

Validate = Callable[[nn.Module], Mapping[str, float]]


class Batches(Protocol):
    """What the loop asks of its data: batches that are a function of the epoch, from any step of it on."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


@dataclass(slots=True)
class Moment:
    """Where the loop stands: `step` steps are done, the next one is step `within` of `epoch`."""

    epoch: int = 0
    within: int = 0
    step: int = 0
    steps: int = 0  # in all


class Listener:
    """Hears the loop; does nothing unless overridden. See `fit` for the order of the events."""

    def on_start(self, cohort: Cohort, at: Moment) -> None: ...

    def on_epoch_start(self, cohort: Cohort, at: Moment) -> None: ...

    def on_step(self, cohort: Cohort, at: Moment) -> None: ...

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None: ...

    def on_end(self, cohort: Cohort, at: Moment) -> None: ...


@final
@dataclass(slots=True)
class Cohort:
    """Arms that are compared: one seed, one teacher, one order of the same views."""

    name: str
    seed: int
    arms: Sequence[Arm]
    teacher: Teacher | None = None
    finished: Mapping[Source, Teacher] = field(default_factory=dict)  # who else teaches: students of other arms
    at: Moment = field(default_factory=Moment)

    @property
    def needs_teacher(self) -> bool:
        return any(arm.learning and arm.distiller.objective.needs_teacher for arm in self.arms)

    def told(self, batch: Batch, progress: float) -> dict[Source, tuple[Outputs, ...]]:
        """What the finished students, and the teacher on its way, say to those who still listen."""
        wanted = {source for arm in self.arms if arm.learning for source in arm.distiller.objective.sources}
        found = {source: one for source, one in self.finished.items() if source in wanted}
        for one in found.values():
            if isinstance(one, RouteTeacher):
                one.walk(progress)
        return {source: (one.answer(batch),) for source, one in found.items()}


def fit(
    cohort: Cohort,
    batches: Batches,
    validate: Validate,
    device: Device,
    *,
    epochs: int,
    listeners: Sequence[Listener] = (),
) -> None:
    """Train every arm of a cohort from where it stands to the end.

        on_start
        for every epoch left, while an arm is still learning:
            on_epoch_start
            for every batch:
                ask the teacher once, and finished students who teach
                for every group of arms that listen to each other, most of them of one:
                    for every arm: forward
                    for every arm: loss, backward, clip, step
                on_step
            for every arm: validate, keep the best, stop?
            on_epoch_end
        on_end

    Everything random in a step is a function of (seed, step): a restart needs no saved generator, and all arms of a
    cohort meet the same dropout masks where their shapes agree.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    at = cohort.at
    at.steps = epochs * batches.steps_per_epoch
    _tell(listeners, "on_start", cohort)
    while at.epoch < epochs and any(arm.learning for arm in cohort.arms):
        if at.within == 0:
            _tell(listeners, "on_epoch_start", cohort)
        learning = [arm for arm in cohort.arms if arm.learning]
        together, by_name = groups(learning), {arm.name: arm for arm in cohort.arms}
        needs_teacher = cohort.needs_teacher
        hear = [listener.on_step for listener in listeners if _hears(listener, "on_step")]
        for whole in batches.epoch(at.epoch, start=at.within):
            batch, progress = device.place(whole), at.step / at.steps
            with device.autocast():
                answer = cohort.teacher.answer(batch) if needs_teacher and cohort.teacher is not None else None
                told = cohort.told(batch, progress)
            for group in together:
                asked = {}
                for arm in group:
                    device.seed(cohort.seed, at.step)
                    asked[arm.name] = arm.ask(batch, answer, device, progress=progress)
                # All of them are heard before any learns, since copies of peers follow at the end of a step.
                others = {arm.name: {**told, **heard(arm, asked, by_name)} for arm in group}
                for arm in group:
                    arm.learn(asked[arm.name], device, progress=progress, step=at.step, others=others[arm.name])
            at.step += 1
            at.within += 1
            for on_step in hear:
                on_step(cohort, at)
        at.epoch, at.within = at.epoch + 1, 0
        for arm in learning:
            arm.close_epoch(at.epoch, at.step, validate(arm.student))
        _tell(listeners, "on_epoch_end", cohort)
    _tell(listeners, "on_end", cohort)


def _tell(listeners: Sequence[Listener], event: str, cohort: Cohort) -> None:
    for listener in listeners:
        getattr(listener, event)(cohort, cohort.at)


def _hears(listener: Listener, event: str) -> bool:
    return getattr(type(listener), event) is not getattr(Listener, event)
