"""All arms of one seed: those that listen to the teacher first, then those whom finished students teach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tutelage.evaluation.predict import ask, best_of_tasks
from tutelage.models import load_weights
from tutelage.run.armplan import ArmPlan, waves_of
from tutelage.run.arms import Company
from tutelage.run.cohorts import Workshop, train_cohort
from tutelage.run.job import Job
from tutelage.run.route import route_of
from tutelage.run.students import save_student, student_file
from tutelage.run.teacher import TeacherInHand
from tutelage.schedules import Schedule
from tutelage.sources import FromArm, Pseudo, Route, Source
from tutelage.teachers import EnsembleTeacher, ModuleTeacher, Teacher
from tutelage.teachers.pseudo import PseudoTeacher, sure_rows

__all__ = ["train_seed"]


def train_seed(job: Job, shop: Workshop, seed: int, *, hand: TeacherInHand, answers: Teacher, recorded: int) -> None:
    """Train every arm of a seed that is not on disk yet, and write its students.

    Args:
        job: what to do.
        shop: where.
        seed: of the cohort; all waves of it see the same batches.
        hand: the teacher.
        answers: who answers for it while students learn, itself or a store.
        recorded: how many recorded views there are; 0 draws anew.

    Raises:
        TrainingError: a number is not finite, or the teacher has changed.
        Interrupted: a signal came; what was done is saved.
    """
    files = {name: student_file(shop.folder.path, name, seed) for name in job.arms}
    ranked: Tensor | None = None
    # The last layer of an ensemble is that of one member, and none of its own.
    module = None if isinstance(hand.teacher, EnsembleTeacher) else hand.module
    for number, wave in enumerate(waves_of(job.arms)):
        if all(files[name].with_name("student.json").is_file() for name in wave):
            shop.folder.tell(f"seed {seed}{f', wave {number + 1}' if number else ''}: students are there already")
            continue
        if ranked is None and _watches_agreement(job.arms):
            said = ask(hand.judged, shop.plain(job.splits.val), shop.device.device)
            ranked = best_of_tasks(said, job.splits.val.sizes)
        arms = train_cohort(
            job, shop, name=f"seed-{seed}" + (f"-wave-{number + 1}" if number else ""), seed=seed, train=job.train,
            teacher=answers, arms=wave, builds={name: plan.build for name, plan in job.students.items()},
            recorded=recorded, company=Company(_finished(job, shop, wave, files, hand), module, ranked),
        )  # fmt: skip
        if shop.device.rank == 0:
            for name, arm in arms.items():
                save_student(files[name], arm, job.students[job.arms[name].student].config, job.compress)
        shop.device.barrier()
        shop.signals.check()


def _finished(
    job: Job, shop: Workshop, wave: Mapping[str, ArmPlan], files: Mapping[str, Path], hand: TeacherInHand
) -> dict[Source, Teacher]:
    """The students on disk that this wave listens to, as teachers."""
    found: dict[Source, Teacher] = {}
    for source in dict.fromkeys(source for arm in wave.values() for source in arm.objective.sources):
        if isinstance(source, Route):
            places = [place for arm in wave.values() for place in arm.objective.places_of(source)]
            found[source] = route_of(job, shop, source.anchors, list(dict.fromkeys(places)))
        if not isinstance(source, (FromArm, Pseudo)):
            continue
        speaker = hand.judged
        if source.arm is not None:
            places = [place for arm in wave.values() for place in arm.objective.places_of(source)]
            with torch.random.fork_rng():
                module = job.students[job.arms[source.arm].student].anew()
            load_weights(module, files[source.arm])
            speaker = ModuleTeacher(module.to(shop.device.device), places=list(dict.fromkeys(places)))
        found[source] = _pseudo(job, shop, source, speaker) if isinstance(source, Pseudo) else speaker
    return found


def _pseudo(job: Job, shop: Workshop, source: Pseudo, speaker: Teacher) -> PseudoTeacher:
    """Pseudo-labels of the plain training part; examples that have labels are asked about as well."""
    train = job.splits.train
    logits = ask(speaker, shop.plain(train), shop.device.device)
    kept = sure_rows(logits, confidence=source.confidence, per_class=source.per_class)
    shop.folder.tell(f"{source}: {int(kept.sum()):,} of {len(kept):,} training examples count")
    teacher = PseudoTeacher(train.ids, logits, kept)
    teacher.to(shop.device.device)
    return teacher


def _watches_agreement(arms: Mapping[str, ArmPlan]) -> bool:
    terms = [term for arm in arms.values() for term in arm.objective.terms]
    schedules = [schedule for term in terms for schedule in (term.weight, term.temperature)]
    return any(isinstance(schedule, Schedule) and schedule.watches == "agreement" for schedule in schedules)
