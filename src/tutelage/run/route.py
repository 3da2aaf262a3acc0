"""Anchors on the way of a teacher: its training walked again, bit for bit, and some of its states kept."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import nn

from tutelage.errors import InputError, TutelageError
from tutelage.files import cache_folder, sha256
from tutelage.losses import cross_entropy
from tutelage.models import load_weights, save_weights
from tutelage.objective import Objective
from tutelage.run.armplan import ArmPlan
from tutelage.run.cohorts import Workshop, train_cohort
from tutelage.run.job import Job
from tutelage.run.teacher import teacher_key
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.route import RouteTeacher
from tutelage.training import Cohort, Listener, Moment

__all__ = ["route_of"]

_ARM = "route"


def route_of(job: Job, shop: Workshop, count: int, places: list[str]) -> RouteTeacher:
    """The teacher of a job at `count` points of its training, evenly spaced, the last one at its end.

    A teacher that is in the cache has left no traces of its way, so it is trained once more; what that gives is kept
    beside it.

    Args:
        job: whose recipe trains its teacher.
        shop: where.
        count: of anchors, no more than the teacher's epochs.
        places: layers whose outputs are answered as features.

    Raises:
        InputError: the teacher is not trained here, or for fewer epochs.
    """
    plan = job.teacher
    if plan.build is None or plan.train is None:
        raise InputError(
            "a route is the teacher's own training, but this teacher is not trained by the run",
            fix="give `teacher.train`, or listen to the finished teacher",
        )
    epochs = plan.train.epochs
    if count > epochs:
        raise InputError(
            "a route has no more anchors than the teacher has epochs", given=f"{count} anchors, {epochs} epochs"
        )
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        module = plan.build()
    marks = [round(epochs * number / count) for number in range(1, count + 1)]
    home = cache_folder() / "teachers" / teacher_key(job, module) / "route"
    files = [home / f"epoch-{epoch}.safetensors" for epoch in marks]
    if not all(map(_whole, files)):
        shop.folder.tell(f"{plan.title}: walking its way again for {count} anchors")
        train_cohort(
            job.teaching, shop, name=f"{plan.slug}-{_ARM}", seed=plan.seed, train=plan.train, teacher=None,
            arms={_ARM: ArmPlan("", "teacher", Objective([cross_entropy]))}, builds={"": lambda: module},
            listeners=[_Anchors(dict(zip(marks, files, strict=True)))] if shop.device.rank == 0 else [],
        )  # fmt: skip
        shop.device.barrier()
    anchors = []
    for file in files:
        with torch.random.fork_rng():
            state = plan.build()
        load_weights(state, file)
        anchors.append(ModuleTeacher(state.to(shop.device.device), places=places))
    return RouteTeacher(anchors)


@final
class _Anchors(Listener):
    """Keeps the states of an arm after some of its epochs, each with its sum beside it."""

    def __init__(self, files: dict[int, Path]) -> None:
        self._files = files

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        if at.epoch in self._files:
            file, student = self._files[at.epoch], cohort.arms[0].student
            assert isinstance(student, nn.Module)
            save_weights(student, file)
            file.with_suffix(".sha256").write_text(sha256(file), encoding="ascii")


def _whole(file: Path) -> bool:
    try:
        return file.with_suffix(".sha256").read_text(encoding="ascii") == sha256(file)
    except (OSError, TutelageError):
        return False
