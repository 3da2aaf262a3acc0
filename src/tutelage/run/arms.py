"""Building an arm: a student with everything that it learns by, and everything that learns along with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.companions import Around, Listening, connect
from tutelage.compress.quantise import is_quantised, walk
from tutelage.data import Batches, BatchSource, Paired, PartlyLabelled
from tutelage.distiller import Distiller
from tutelage.errors import InputError
from tutelage.models.heads import head_of
from tutelage.objective import Objective
from tutelage.recipe import Train
from tutelage.run.armplan import ArmPlan
from tutelage.run.job import Job
from tutelage.sources import Ema, Peers, Source
from tutelage.teachers import Teacher
from tutelage.teachers.moving import MovingTeacher
from tutelage.training import Arm, Device, Stop, learning_rate, make_optimizer
from tutelage.training.optim import LearningRate
from tutelage.types import Batch

__all__ = ["Company", "batches_of", "check_learning", "make_arm", "surroundings"]


@dataclass(frozen=True, slots=True, eq=False)
class Company:
    """Who takes part in a cohort beside its arms and its teacher's answers."""

    finished: Mapping[Source, Teacher] = field(default_factory=dict)  # students of other arms, who teach some of these
    module: nn.Module | None = None  # the teacher's, whose last layer an arm may look through
    ranked: Tensor | None = None  # (N, tasks) the teacher's classes of the validation part, where a schedule asks


def batches_of(job: Job, arms: Mapping[str, ArmPlan], *, size: int, seed: int, recorded: int = 0) -> BatchSource:
    """The batches that arms learn from; with partners where one of them reads these, marked where labels are few."""
    batches: BatchSource = Batches(
        job.splits.train, batch_size=size, views=job.views, seed=seed, recorded=recorded, balance=job.balance
    )
    if any("partner_logits" in arm.objective.needs for arm in arms.values()):
        batches = Paired(batches, job.splits.train, job.views, seed=seed)
    return batches if job.labelled is None else PartlyLabelled(batches, job.labelled)


def surroundings(
    job: Job,
    arms: Mapping[str, ArmPlan],
    example: Batch,
    teacher: Teacher | None,
    company: Company,
    *,
    size: int,
    seed: int,
) -> Around:
    """What connectors and companions of arms are built from; the teacher is asked only where one of them needs it.

    Args:
        job: whose training examples are known to what remembers by example.
        arms: that learn.
        example: a batch, on its device.
        teacher: who says what it is about.
        company: who else does.
        size: of the batches to come.
        seed: of the cohort.
    """
    terms = [term for plan in arms.values() for term in plan.objective.terms]
    asks = any(term.matches or term.companions for term in terms if term.reads_teacher)
    answer = teacher.answer(example) if asks and teacher is not None else None
    return Around(
        example, answer, head=head_of(company.module, answer), batch_size=size, seed=seed,
        others={source: one.answer(example) for source, one in company.finished.items()},
        known=(job.splits.train.ids, _known_targets(job)),
    )  # fmt: skip


def check_companions(job: Job, arm: ArmPlan, student: nn.Module) -> None:
    """Build what learns along without the teacher, once, before the teacher costs anything.

    Raises:
        ModelError: the student is not of the kind that it needs.
        InputError: it needs what is not known.
    """
    terms = [term for term in arm.objective.terms if term.companions and not term.listens_to_others]
    if terms:
        batch = next(batches_of(job, {"": arm}, size=2, seed=job.seeds[0]).epoch(0))
        around = surroundings(job, {}, batch, None, Company(), size=job.train.batch_size, seed=job.seeds[0])
        connect(student, Objective(terms), around)


def _known_targets(job: Job) -> Tensor:
    """The training targets (N,), -1 where an example has no label."""
    train = job.splits.train
    if job.labelled is None:
        return train.targets
    return train.targets.masked_fill(~torch.isin(train.ids, job.labelled), -1)


def check_learning(train: Train, student: nn.Module) -> None:
    """Refuse an optimizer or a schedule that cannot work before hours are spent on anything else.

    Raises:
        InputError: torch knows no such optimizer or scheduler, or they refuse their options.
    """
    _learning(train, student)


def _learning(train: Train, student: nn.Module) -> tuple[torch.optim.Optimizer, LearningRate]:
    if "lr" in train.optimizer_args:
        raise InputError(
            "the learning rate belongs in `train.lr`", where="train.optimizer_args", given=str(train.optimizer_args)
        )
    optimizer = make_optimizer(train.optimizer, student.parameters(), lr=train.lr, **train.optimizer_args)
    rate = learning_rate(
        train.scheduler, optimizer, lr=train.lr, warm_up=train.warm_up, interval=train.scheduler_interval,
        **train.scheduler_args,
    )  # fmt: skip
    return optimizer, rate


@final
class _Rounding:
    """A learning rate that also tells a student who learns with rounding how far training is.

    What it is told counts from the next step on, and is kept with the weights until then.
    """

    def __init__(self, rate: LearningRate, student: nn.Module) -> None:
        self._rate, self._student = rate, student

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        self._rate.before_step(optimizer, progress)
        walk(self._student, progress)

    def after_step(self) -> None:
        self._rate.after_step()

    def after_epoch(self, scores: Mapping[str, float]) -> None:
        self._rate.after_epoch(scores)

    def state(self) -> dict[str, Any]:
        return self._rate.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._rate.load_state(state)


def make_arm(
    name: str,
    plan: ArmPlan,
    student: nn.Module,
    teacher: Teacher | None,
    train: Train,
    device: Device,
    last: bool,
    *,
    around: Around,
    arms: Mapping[str, ArmPlan],
) -> Arm:
    """A student with everything it learns by; what learns along starts from the same random numbers in all arms."""
    objective = plan.objective
    student.to(device.device)
    averages: dict[Source, MovingTeacher] = {
        source: MovingTeacher(student, decay=source.decay, places=objective.places_of(source))
        for source in objective.sources
        if isinstance(source, Ema)
    }
    own = {source: one.answer(around.batch) for source, one in averages.items()}
    with torch.random.fork_rng():
        torch.manual_seed(around.seed)
        learner = connect(student, objective, replace(around, others={**around.others, **own}))
    optimizer, rate = _learning(train, learner)
    if is_quantised(student):
        rate = _Rounding(rate, student)
    stop = Stop(metric=train.stop.metric, patience=train.stop.patience, target=train.stop.target)
    if last:
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    distiller = Distiller(device.prepare(learner, optimizer), teacher, objective)
    peers = [other for other, its in arms.items() if its.method == plan.method and other != name]
    hears = [source for source in objective.sources if isinstance(source, Peers)]
    stale = {source.every: MovingTeacher(student, every=source.every) for source in hears if source.every > 1}
    extras = learner.extras if isinstance(learner, Listening) else nn.ModuleDict()
    extras.update({f"ema{number}": one.module for number, one in enumerate(averages.values())})
    extras.update({f"stale{every}": one.module for every, one in stale.items()})
    return Arm(
        name, distiller, optimizer, rate, student=student, extras=extras if len(extras) else None, clip=train.clip,
        stop=stop, moving=averages, stale=stale, peers=peers if hears else (),
    )  # fmt: skip
