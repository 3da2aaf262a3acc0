"""The pre-flight: everything that can be told of a recipe before anything is trained, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from tutelage.errors import DamagedError, DataError, ModelError
from tutelage.recipe import Recipe
from tutelage.run.arms import check_learning
from tutelage.run.checks.data import data_findings
from tutelage.run.checks.findings import Checked, Finding, fault, notice, ok, several
from tutelage.run.checks.resources import disk_findings, memory_finding, time_findings
from tutelage.run.checks.student import student_findings
from tutelage.run.checks.teacher import come_by, teacher_findings
from tutelage.run.checks.views import check_sheet, view_findings
from tutelage.run.checks.worth import aligned_findings
from tutelage.run.cohorts import torch_settings
from tutelage.run.job import Job, job_of_recipe
from tutelage.training import make_device

__all__ = ["check_recipe"]

_FEW_SEEDS = 3


def check_recipe(
    recipe: Recipe, *, trust: bool = False, store: Path | str | None = None, contact_sheet: Path | None = None
) -> Checked:
    """Look at a recipe's data, teacher, student, views and needs, and train nothing.

    What does not fit is a finding of level "fault", not an exception, so that one look tells everything. Nothing is
    written but the contact sheet; torch's settings and random numbers are left as they were. The same recipe has the
    same findings but for the times.

    Args:
        recipe: what would be run.
        trust: whether code that it names may run.
        store: where stores of answers lie, if not where they usually do.
        contact_sheet: a PNG file to write 8 examples to, each plain and in 5 views.

    Raises:
        InputError: the recipe itself is wrong, or the sheet has no usable name.
        TutelageError: the sheet cannot be written.
    """
    if contact_sheet is not None:
        check_sheet(contact_sheet)
    try:
        job = job_of_recipe(recipe, trust=trust, store=store)
    except DataError as error:
        return Checked(recipe.name, (fault("data", error),))
    with torch.random.fork_rng(), torch_settings(job):
        return Checked(recipe.name, tuple(_findings(job, contact_sheet)))


def _findings(job: Job, sheet: Path | None) -> Iterator[Finding]:
    device = make_device(job.device, precision=job.train.precision)
    students = {name: _student(job, name) for name in job.students}  # before anything that takes long
    yield from data_findings(job.teaching.splits)
    yield from (notice("data", text.removeprefix("data: ")) for text in job.notices)
    yield from aligned_findings(job)
    known, said = come_by(job)
    yield from said
    for name, one in {} if known is None else (known.members or {"": known}).items():
        train = job.members[name].teacher.train
        if train is not None:
            check_learning(train, one.module)
    module = None if known is None else known.module.to(device.device)
    if known is not None:
        yield from teacher_findings(job, known, device.device)
    learns: list[Finding] = []
    for name, student in students.items():
        if isinstance(student, Finding):
            learns.append(student)
        else:
            learns += student_findings(job, name, student, known, device=device.device)
    yield from learns
    yield from view_findings(job, sheet)
    yield memory_finding(job)
    built = {name: student for name, student in students.items() if not isinstance(student, Finding)}
    if len(built) == len(students):
        yield from disk_findings(job, built, module)
    # Layers of a teacher that could not be come by are asked of nobody.
    if all(finding.level != "fault" for finding in learns) and (known is not None or not job.teacher_places):
        yield from time_findings(job, known, device)
    yield from _settings(job)


def _student(job: Job, name: str) -> nn.Module | Finding:
    """A student with its first weights, or why there is none."""
    torch.manual_seed(job.seeds[0])
    try:
        student = job.students[name].build()
    except (ModelError, DamagedError) as error:
        return fault("student", error)
    check_learning(job.train, student)
    return student


def _settings(job: Job) -> Iterator[Finding]:
    seeds = len(job.seeds)
    if seeds < _FEW_SEEDS:
        said = f"{several(seeds, 'seed')}: how much of a gain is chance stays unknown"
        yield notice("seeds", said, f"{_FEW_SEEDS} or more, such as seeds: [0, 1, 2]")
    else:
        yield ok("seeds", f"{seeds}, which show how much of a gain is chance")
    if job.train.deterministic:
        yield ok("repeatable", "the same seed gives the same bits")
    else:
        said = "train.deterministic is off: the same seed may give other numbers"
        yield notice("repeatable", said, "leave it on unless speed is all")
