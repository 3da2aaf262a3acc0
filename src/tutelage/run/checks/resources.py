"""What a run will take: disk, memory and time, the last by a few steps of the loop that the run itself uses."""

from __future__ import annotations

import copy
import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from tutelage.data import BatchSource, as_model_input
from tutelage.errors import TrainingError
from tutelage.evaluation.cost import parameters
from tutelage.files import human_bytes
from tutelage.losses import cross_entropy
from tutelage.objective import Objective
from tutelage.recipe import Train
from tutelage.report.numbers import duration
from tutelage.run.answers import question_of
from tutelage.run.armplan import ArmPlan
from tutelage.run.arms import Company, batches_of, make_arm, surroundings
from tutelage.run.checks.budget import affordable
from tutelage.run.checks.findings import Finding, fault, first_line, ok, several
from tutelage.run.checks.student import as_stored
from tutelage.run.checks.teacher import KnownTeacher
from tutelage.run.job import Job
from tutelage.schedules import WATCHED
from tutelage.sources import FromArm, Pseudo, Route, Source
from tutelage.store.layout import KEY_BYTES
from tutelage.teachers import EnsembleTeacher, ModuleTeacher, Teacher
from tutelage.training import Cohort, Device, Listener, Moment, fit, make_device, suits_channels_last
from tutelage.types import Batch, Outputs

__all__ = ["disk_findings", "memory_finding", "time_findings"]

_WARM_UP, _TIMED = 1, 3
_LONG = 4.0  # seconds after which one cohort is not measured any further
_BUDGET = 5e10  # multiply-adds of one step
_BYTES = 4  # of a weight
_ID_AND_LABEL = 16  # bytes
_CHECKPOINTS = 2


def disk_findings(job: Job, students: Mapping[str, nn.Module], teacher: nn.Module | None) -> Iterator[Finding]:
    """Bytes of the store and of the run's folder, and what is free where they will lie."""
    needs: list[tuple[str, Path, int]] = []
    for name, one in job.members.items():
        if one.store is None:
            continue
        question, codec, title = question_of(one), one.store.codec, f"store {name}".rstrip()
        rows = len(question.ids()) * len(question.draws)
        size = (codec.row_bytes(len(job.splits.train.outputs)) + KEY_BYTES) * rows
        said = f"{rows:,} rows in {codec.name}, views {one.store.views}: {human_bytes(size)}"
        said += ", and the features on top" if one.teacher_places else ""
        if isinstance(one.store.root, str):
            yield ok(title, f"{said}, read from {one.store.root}")
        else:
            yield ok(title, f"{said} in {one.store.root}, less what is there already")
            needs.append((title, one.store.root, size))
    needs.append(("run", Path("runs") / job.name, _run_bytes(job, students, teacher)))
    for place, own in _by_disk(needs).items():
        total, free = sum(size for _, size in own), shutil.disk_usage(place).free
        names = " and ".join(f"{name} {human_bytes(size)}" for name, size in own)
        said = f"{names} of {human_bytes(free)} free at {place}"
        if total > free:
            yield fault("disk", f"too little room: {said}", "free some, choose another place, or a smaller codec")
        else:
            yield ok("disk", said)


def _by_disk(needs: list[tuple[str, Path, int]]) -> dict[Path, list[tuple[str, int]]]:
    """What will lie on each disk: places on the same one share what is free there."""
    found: dict[int, tuple[Path, list[tuple[str, int]]]] = {}
    for name, path, size in needs:
        place = _existing(path)
        found.setdefault(place.stat().st_dev, (place, []))[1].append((name, size))
    return dict(found.values())


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _run_bytes(job: Job, students: Mapping[str, nn.Module], teacher: nn.Module | None) -> int:
    """About what a run's folder takes: last and best weights, checkpoints with two moments, and answers to the test."""
    models = len(job.seeds) * len(job.arms)
    learned = 2 + len(job.compress) + len(job.export) + _CHECKPOINTS * 4
    weights = sum(parameters(students[arm.student]) for arm in job.arms.values())
    size = len(job.seeds) * weights * _BYTES * learned
    if teacher is not None:
        trained = any(one.teacher.train is not None for one in job.members.values())
        size += parameters(teacher) * _BYTES * (1 + trained * (1 + _CHECKPOINTS * 4))
    return size + (models + 1) * len(job.splits.test) * (len(job.splits.test.outputs) * _BYTES + _ID_AND_LABEL)


def memory_finding(job: Job) -> Finding:
    """What the examples take of the machine's memory."""
    parts = (job.splits.train, job.splits.val, job.splits.test)
    tensors = [tensor for part in parts for tensor in (part.inputs, part.targets, part.ids, part.origins)]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    rows = min(job.train.batch_size, len(job.splits.train))
    batch = rows * job.splits.train.inputs[0].numel() * _BYTES
    return ok("memory", f"examples {human_bytes(held)}, a batch of inputs {human_bytes(batch)}; models come on top")


def time_findings(job: Job, known: KnownTeacher | None, device: Device) -> list[Finding]:
    """How long a run will take, from a few steps of a cohort; for a teacher that has yet to be trained, as well.

    Args:
        known: the teacher, or at least its architecture; random answers stand in where even that is lacking.
        device: where a run would compute.
    """
    found: list[Finding] = []
    teacher: Teacher = _StandIn(job)
    asking = 0.0
    try:
        if known is not None:
            found += _to_train(job, known)
        if known is not None and any(arm.objective.needs_teacher for arm in job.arms.values()):
            teacher, asking = _answering(job, known, device)
        students = {name: plan.build() for name, plan in job.students.items()}
        step, steps = _measured(job, device, job.train, job.arms, teacher, students)
    except TrainingError as error:
        return [*found, fault("first steps", error)]
    except (RuntimeError, MemoryError) as error:  # most of all where the memory of a device is too small
        return [*found, fault("first steps", f"they fail: {first_line(error)}", "a smaller train.batch_size, or model")]
    if asking:
        found.append(ok("store's time", f"about {duration(asking)} to ask the teacher about all rows, once"))
    whole = step * steps * job.train.epochs * len(job.seeds)
    found.append(
        ok(
            "time", f"about {duration(whole)} to train all students: {several(len(job.seeds), 'seed')} × "
            f"{several(job.train.epochs, 'epoch')} × {several(steps, 'step')} of {several(len(job.arms), 'arm')}, "
            f"{step * 1e3:.1f} ms each; validation comes on top",
        )
    )  # fmt: skip
    return found


def _to_train(job: Job, known: KnownTeacher) -> Iterator[Finding]:
    """How long every teacher takes that has yet to be trained."""
    jobs = job.members
    for name, one in (dict(known.members) or {"": known}).items():
        plan = jobs[name].teacher
        if one.trained or plan.train is None:
            continue
        train = plan.train
        own = make_device(job.device, precision=train.precision)
        arms = {"teacher": ArmPlan("", "teacher", Objective([cross_entropy]).for_tasks(jobs[name].splits.train.sizes))}
        step, steps = _measured(jobs[name], own, train, arms, None, {"": one.module})
        # Each of K further ones learns from all folds but one.
        times = step * steps * train.epochs * max(1, plan.cross_fit)
        said = f"about {duration(times)} to train it first: {several(train.epochs, 'epoch')}"
        yield ok(f"{plan.title}'s time", f"{said} of {steps:,} steps, {step * 1e3:.1f} ms each")


def _answering(job: Job, known: KnownTeacher, device: Device) -> tuple[Teacher, float]:
    """Who answers in training, and the seconds to fill the stores first; a stand-in for what is read from disk."""
    jobs, asking = job.members, 0.0
    teachers: list[Teacher] = []
    for name, one in (dict(known.members) or {"": known}).items():
        own = jobs[name]
        live = ModuleTeacher(one.module, places=own.teacher_places)
        live.to(device.device)
        teachers.append(live if own.store is None or own.teacher_places else _StandIn(own))
        if own.store is not None:
            asking += _asking(own, live, device)
    return (EnsembleTeacher(teachers, **job.teacher.combine) if known.members else teachers[0]), asking


def _measured(
    job: Job,
    device: Device,
    train: Train,
    arms: Mapping[str, ArmPlan],
    teacher: Teacher | None,
    initial: Mapping[str, nn.Module],
) -> tuple[float, int]:
    """Seconds of one step of a cohort, and the steps of an epoch."""
    recorded = job.recorded if teacher is not None else 0
    for module in initial.values():
        module.to(device.device)
    two = as_model_input(job.splits.train.inputs[:2].clone()).to(device.device)
    passes = [(initial[arm.student], 3) for arm in arms.values()]
    members = teacher.members if isinstance(teacher, EnsembleTeacher) else (teacher,)
    passes += [(one.module, 1) for one in members if isinstance(one, ModuleTeacher)]
    size = min(train.batch_size, max(2, affordable(passes, two, _BUDGET)))
    real, batches = (
        batches_of(job, arms, size=count, seed=job.seeds[0], recorded=recorded) for count in (train.batch_size, size)
    )
    example = device.place(next(batches.epoch(0)))
    company = _company(arms, initial, getattr(teacher, "module", None))
    around = surroundings(job, arms, example, teacher, company, size=size, seed=job.seeds[0])
    made = []
    for name, arm in arms.items():
        module, inputs = initial[arm.student], example.inputs["x"]
        # Where a run would measure, the rule does: a check keeps nothing.
        last = train.channels_last == "on" or (train.channels_last == "auto" and suits_channels_last(module, inputs))
        made.append(make_arm(name, arm, copy.deepcopy(module), teacher, train, device, last, around=around, arms=arms))
    few = _Few(batches)
    fit(
        Cohort("check", job.seeds[0], made, teacher, company.finished), few, lambda _: dict.fromkeys(WATCHED, 0.0),
        device, epochs=1, listeners=[few.watch],
    )  # fmt: skip
    timed = few.watch.steps[_WARM_UP:] or few.watch.steps
    # Where a whole batch would take too long, a part of one stands for it.
    return sum(timed) / len(timed) * train.batch_size / size, real.steps_per_epoch


def _company(arms: Mapping[str, ArmPlan], initial: Mapping[str, nn.Module], module: object) -> Company:
    """Who else teaches: students as they start stand for those that will be finished."""
    found: dict[Source, Teacher] = {}
    for source in dict.fromkeys(source for arm in arms.values() for source in arm.objective.sources):
        if isinstance(source, (FromArm, Pseudo, Route)):
            places = [place for arm in arms.values() for place in arm.objective.places_of(source)]
            of = (
                next(iter(arms.values())).student
                if isinstance(source, Route) or source.arm is None
                else arms[source.arm].student
            )
            found[source] = ModuleTeacher(copy.deepcopy(initial[of]), places=places)
    return Company(found, module if isinstance(module, nn.Module) else None)


@final
class _Few:
    """The first batches of a run, no more than it takes to measure a step."""

    def __init__(self, batches: BatchSource) -> None:
        self._batches = batches
        self.steps_per_epoch = batches.steps_per_epoch
        self.watch = _Watch()

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        endless = itertools.chain.from_iterable(map(self._batches.epoch, itertools.count()))
        for batch in itertools.islice(endless, _WARM_UP + _TIMED):
            yield batch
            if sum(self.watch.steps) > _LONG:
                return


@final
class _Watch(Listener):
    """Writes down how long every step took, its batch included."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._last = time.perf_counter()

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        self._last = time.perf_counter()

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self._last = now


@final
class _StandIn:
    """Answers of the right kind at no cost, for a teacher that is not asked in training or not there."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._classes = len(job.splits.train.outputs)

    def answer(self, batch: Batch) -> Outputs:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(len(batch), self._classes, generator=generator).to(batch.ids.device)
        return Outputs(as_stored(self._job, logits, batch))

    def fingerprint(self) -> str:
        return "stand-in"

    def to(self, device: torch.device) -> None: ...


def _asking(job: Job, teacher: ModuleTeacher, device: Device) -> float:
    """Seconds to ask a teacher about every row of the store."""
    question = question_of(job)
    ids = question.ids()[:64]
    batch = device.place(question.filled(ids, question.draws[0]))
    taken = 0.0
    for _ in range(2):  # the first call of a model is slower than the rest
        start = time.perf_counter()
        logits = teacher.answer(batch).logits
        assert isinstance(logits, Tensor)
        float(logits.sum())  # waits for the device
        taken = time.perf_counter() - start
    return taken / len(batch) * len(question.ids()) * len(question.draws)
