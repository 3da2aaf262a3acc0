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

__all__ = ["obtain_crossfitted"]


def obtain_crossfitted(
    job: Job, shop: Workshop, obtain: Callable[[Job, Workshop], TeacherInHand]
) -> tuple[TeacherInHand, CrossFitted]:
    """The teacher of all training examples, and the one that students hear.

    Args:
        job: as its teacher sees it.
        shop: where work is done.
        obtain: how a teacher is come by that is not cross-fitted.

    Raises:
        InputError: arms read its layers, or blend examples.
    """
    plan = job.teacher
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
    whole = obtain(replace(job, teacher=replace(plan, cross_fit=0)), shop)
    taught = job.teaching
    train = taught.splits.train
    folds = fold_numbers(train, plan.cross_fit)
    parts = []
    for number in range(plan.cross_fit):
        rows = torch.from_numpy((folds != number).nonzero()[0])
        own = replace(plan, cross_fit=0, name=f"{plan.name} without fold {number + 1}".strip())
        parts.append(obtain(replace(taught, teacher=own, splits=replace(taught.splits, train=train.take(rows))), shop))
    return whole, CrossFitted(whole.teacher, [one.teacher for one in parts], train.ids, folds)
