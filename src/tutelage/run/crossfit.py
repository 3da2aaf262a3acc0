"""Coming by a cross-fitted teacher: one of all the training examples, and one for each fold that never saw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tutelage.errors import InputError
from tutelage.run.cohorts import Workshop
from tutelage.run.job import Job
from tutelage.teachers.crossfit import CrossFitted, fold_numbers

if TYPE_CHECKING:
    from tutelage.run.teacher import TeacherInHand

__all__ = ["check_cross_fit", "is_cross_fit_ready", "obtain_crossfitted", "part_jobs"]


def obtain_crossfitted(job: Job, shop: Workshop, obtain: Callable[[Job, Workshop], TeacherInHand]) -> TeacherInHand:
    """The teacher of all training examples, which answers about those by teachers that did not learn from them.

    Args:
        job: as its teacher sees it.
        shop: where work is done.
        obtain: how a teacher is come by that is not cross-fitted.

    Raises:
        InputError: arms read its layers, or blend examples.
    """
    check_cross_fit(job)
    whole = obtain(_whole(job), shop)
    parts = tuple(obtain(one, shop) for one in part_jobs(job))
    train = job.teaching.splits.train
    folds = fold_numbers(train, job.teacher.cross_fit)
    teacher = CrossFitted(whole.teacher, [one.teacher for one in parts], train.ids, folds)
    return replace(whole, teacher=teacher, folds=parts)


def check_cross_fit(job: Job) -> None:
    """Refuse what no several teachers of one kind can do together.

    Raises:
        InputError: arms read the teacher's layers, or blend examples.
    """
    if not job.teacher.cross_fit:
        return
    if job.teacher_places:
        raise InputError(
            "teachers of different folds have layers of their own, which no student can follow together",
            where="teacher.cross_fit", given=", ".join(job.teacher_places), fix="leave `cross_fit` out",
        )  # fmt: skip
    if job.views.soft_targets:
        raise InputError(
            "a blend of two examples is in no fold", where="teacher.cross_fit", given="mixup or cutmix",
            fix="turn it off, or leave `cross_fit` out",
        )  # fmt: skip


def part_jobs(job: Job) -> list[Job]:
    """For each fold the job of a teacher that learns from all others; of a teacher that is not cross-fitted none."""
    plan = job.teacher
    if not plan.cross_fit:
        return []
    taught = job.teaching
    train = taught.splits.train
    folds = fold_numbers(train, plan.cross_fit)
    found = []
    for number in range(plan.cross_fit):
        rows = torch.from_numpy((folds != number).nonzero()[0])
        own = replace(plan, cross_fit=0, name=f"{plan.name} without fold {number + 1}".strip())
        found.append(replace(taught, teacher=own, splits=replace(taught.splits, train=train.take(rows))))
    return found


def is_cross_fit_ready(job: Job, is_ready: Callable[[Job], bool]) -> bool:
    """Whether none of them has to be trained first."""
    return is_ready(_whole(job)) and all(map(is_ready, part_jobs(job)))


def _whole(job: Job) -> Job:
    return replace(job, teacher=replace(job.teacher, cross_fit=0))
