"""A job is a recipe with everything in hand: examples, builders of models, objectives. Python can make one directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from tutelage import losses
from tutelage.compress.quantise import Quantise, quantise
from tutelage.data import SOURCES, Splits, Views, labelled_ids
from tutelage.data.balance import long_tail
from tutelage.data.examples import Task
from tutelage.data.sources import with_training_part
from tutelage.data.tasks import splits_of
from tutelage.data.unlabelled import with_unlabelled
from tutelage.errors import InputError, RecipeError
from tutelage.evaluation.robust import check_attackable
from tutelage.export import check_formats
from tutelage.extensions import offers
from tutelage.models import NETS, Adapter, ModelSpec, adapt, build
from tutelage.models.reuse import HeadFacts
from tutelage.objective import Objective
from tutelage.recipe import Recipe, Student, Train, check_names, dump
from tutelage.recipe.attacks import RobustnessSpec
from tutelage.recipe.learners import HeadSpec
from tutelage.recipe.schema import Teacher as TeacherSpec
from tutelage.run.alignment import aligned
from tutelage.run.armplan import ArmPlan, arms_of, objective_of
from tutelage.run.beginnings import Beginning, beginning_of, nets_beside, planned, steps_beside
from tutelage.run.classweights import weigh_classes
from tutelage.run.combination import check_alone, combination
from tutelage.run.examples import check_reads, examples_of, facts_of_data, statistics
from tutelage.run.heads import headed
from tutelage.run.questions import check_questions
from tutelage.run.storeplan import StorePlan, store_plan
from tutelage.run.tasks import taught_tasks, with_tasks
from tutelage.run.teacherplan import TeacherPlan, teacher_plan
from tutelage.teachers.combining import BY_TASK
from tutelage.teachers.ensemble import places_of_each
from tutelage.words import answers_elsewhere

__all__ = [
    "Job",
    "StudentPlan",
    "TeacherPlan",
    "job_of_recipe",
    "student_plan",
]


@dataclass(frozen=True, slots=True, eq=False)
class StudentPlan:
    """How a student is built, and the facts by which its file is built again."""

    build: Callable[[], nn.Module]  # as it begins to learn; called with torch's generator seeded
    config: Mapping[str, object] = field(default_factory=dict)
    plain: Callable[[], nn.Module] | None = None  # what its file fits, where that is another one: without adapters
    weights: Path | None = None  # what every seed begins with
    start: int = 0  # added to the run's seed for the first weights
    reuse: HeadSpec | None = None  # at which layers it is to take over its teacher's last one
    head: HeadFacts | None = None  # the same, once the shapes are known
    begins: Beginning | None = None  # where it begins as something larger

    def anew(self) -> nn.Module:
        """A module that the student's file fills, whatever it holds now."""
        return (self.plain or self.build)()


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """All that a run needs, without a question left open."""

    name: str
    config: str  # the recipe as text, with all defaults
    seeds: tuple[int, ...]
    splits: Splits
    views: Views
    teacher: TeacherPlan
    students: Mapping[str, StudentPlan]
    arms: Mapping[str, ArmPlan]  # the same seed's arms share batches, views and one teacher pass
    train: Train
    device: str = "auto"
    threads: int | None = None
    compress: tuple[str, ...] = ()
    export: tuple[str, ...] = ()  # formats in which every student is also written as a file that runs elsewhere
    resamples: int = 10_000
    latency: bool = True
    trackers: tuple[str, ...] = ()
    store: StorePlan | None = None  # None: the teacher answers anew at every step
    balance: str = "none"  # what an epoch shows of classes that are not equally frequent
    attack: RobustnessSpec | None = None  # by which every model is judged as well
    trusted: bool = False  # whether code that the recipe names runs
    notices: tuple[str, ...] = ()  # what a person should know before it starts
    labelled: torch.Tensor | None = None  # (K,) ids of the training examples that have labels; None where all have

    def __post_init__(self) -> None:
        _check_exports(self.export)
        partly = self.labelled is not None
        if partly and (self.views.soft_targets or self.balance != "none"):
            raise InputError(
                "mixup, cutmix and balanced classes need a label for every example, but some have none",
                where="data.labelled", fix="turn them off, or leave `labelled` and `unlabelled` out",
            )  # fmt: skip
        if partly and any("partner_logits" in arm.objective.needs for arm in self.arms.values()):
            raise InputError(
                "an arm reads partners of the same class, but not every example's class is known",
                where="data.labelled", fix="leave `labelled` and `unlabelled` out, or choose another loss",
            )  # fmt: skip
        stores = [self.store, *(plan.store for plan in self.teacher.members.values())]
        replays = any(store is not None and store.views == "replay" for store in stores)
        if self.balance == "over" and self.views.random and replays:
            raise InputError(
                "a store that replays has one view of an example for each epoch, but `data.balance: over` shows rare "
                "examples in several",
                where="teacher.store.views", given="views: replay", expected="a number of recorded views",
                fix="write views: 4, or leave the store out",
            )  # fmt: skip

    @property
    def teaching(self) -> Job:
        """The job as a teacher is trained by it: on the examples that have labels."""
        if self.labelled is None:
            return self
        train = self.splits.train
        rows = torch.isin(train.ids, self.labelled).nonzero().flatten()
        return replace(self, splits=replace(self.splits, train=train.take(rows)), labelled=None)

    @property
    def teacher_places(self) -> tuple[str, ...]:
        """The teacher's layers whose outputs are asked for, by arms or by the store."""
        wanted = [place for arm in self.arms.values() for place in arm.objective.teacher_places]
        if self.teacher.name:
            wanted = list(self.teacher.places)
        return tuple(dict.fromkeys([*wanted, *(self.store.features if self.store is not None else ())]))

    @property
    def for_teacher(self) -> Job:
        """The job as its teacher sees it: the view that it reads, which nothing random happens to if it is another than
        the students'."""
        reads = self.teacher.reads
        if not reads or reads == self.splits.train.reads:
            return self
        return replace(self, splits=self.splits.reading(reads), views=Views(), balance="none")

    @property
    def members(self) -> dict[str, Job]:
        """The job as each of several teachers sees it, by its name; one alone has none."""
        plans = self.teacher.members
        if not plans:
            return {"": self.for_teacher}
        places = places_of_each(self.teacher_places, list(plans))
        by_task = self.teacher.combine.get("how") == BY_TASK
        return {
            name: replace(
                self, teacher=replace(plan, places=tuple(places[name])), store=plan.store,
                splits=splits_of(self.splits, name) if by_task else self.splits,
            ).for_teacher
            for name, plan in plans.items()
        }  # fmt: skip

    @property
    def recorded(self) -> int:
        """From how many recorded views epochs are drawn; 0 where nothing is stored, or all that is seen."""
        return max(one.store.recorded if one.store is not None else 0 for one in self.members.values())


def _reading_others(plan: TeacherPlan, own: str) -> TeacherPlan:
    """The plan, in which a teacher that reads what students read, and says so, says nothing."""
    members = {name: _reading_others(one, own) for name, one in plan.members.items()}
    return replace(plan, members=members, reads="" if plan.reads == own else plan.reads)


def job_of_recipe(recipe: Recipe, *, trust: bool, store: Path | str | None = None) -> Job:
    """Put everything a recipe names into hand, before anything is trained.

    Args:
        recipe: what to do.
        trust: whether code that it names may run.
        store: where stores of answers lie, if not where they usually do.

    Raises:
        RecipeError: names that nothing answers to; all of them together.
        InputError, DataError, ModelError: what the rooms say of their part.
    """
    named = [*losses.__all__, *(offer.name for offer in offers())]
    problems = list(check_names(recipe, losses=named, models=sorted(NETS), sources=sorted(SOURCES)))
    if problems:
        raise RecipeError(problems)
    _check_exports(recipe.export, recipe.places.label(("export",)))
    views = Views(**recipe.data.views.model_dump())
    methods = {name: objective_of(terms, f"arms.{name}", trust=trust) for name, terms in recipe.arms.items()}
    _check_labels(methods, views)
    source = recipe.data
    splits, notices = examples_of(recipe)
    if source.train is not None:
        if any(one.train is not None for one in recipe.trusted.values()):
            raise InputError(
                "a teacher cannot be trained on the examples of `data.train`", where="teacher.train",
                expected="`teacher.weights`",
                fix="name the weights that `tutelage synthesize` wrote beside the examples: "
                "--set teacher.weights=made.teacher.safetensors --set teacher.train=null",
            )  # fmt: skip
        splits = with_training_part(splits, source.train, image_size=source.image_size)
    if source.limit is not None and source.limit < len(splits.train):
        # The first rows in the order of ids are a fixed random sample, since ids are hashes.
        train = splits.train.take(torch.arange(source.limit))
        splits = replace(splits, train=train)
    if source.longtail is not None:
        splits = replace(splits, train=long_tail(splits.train, source.longtail))
    labelled = None if source.labelled == 1.0 else labelled_ids(splits.train, source.labelled)
    if source.unlabelled is not None:
        splits, own, told = with_unlabelled(splits, source.unlabelled, image_size=source.image_size)
        labelled, notices = own if labelled is None else labelled, (*notices, f"data: {told}")
    known = slice(None) if labelled is None else torch.isin(splits.train.ids, labelled)
    if splits.train.separator:
        check_questions(recipe, methods)
    methods = with_tasks(methods, splits.train.sizes)
    further = {name: Task(task.targets[known], task.classes) for name, task in splits.train.tasks.items()}
    methods = weigh_classes(
        methods, splits.train.targets[known], splits.train.classes, balance=source.balance, tasks=further
    )
    if recipe.report.attack is not None:
        check_attackable(splits.test)
    mean, std = statistics(splits.train)
    classes = len(splits.train.outputs)

    taught = taught_tasks(recipe, splits.train.sizes)
    check_reads(recipe, splits.train)

    def builder(
        spec: ModelSpec, role: str, classes: int = classes, reads: str | None = None
    ) -> Callable[[], nn.Module]:
        seen = splits.train.reading(reads or splits.train.reads)
        scale = (mean, std) if seen is splits.train else statistics(seen)
        return lambda: build(
            spec, input_shape=seen.shape, classes=classes, mean=scale[0], std=scale[1], vocabulary=seen.vocabulary,
            separator=seen.separator, trust=trust, role=role,
        )  # fmt: skip

    def trusted(spec: ModelSpec, name: str) -> Callable[[], nn.Module]:
        title, reads = f"teacher {name}".rstrip(), recipe.trusted[name].reads
        return builder(spec, title, taught.get(name, classes), reads)

    def learner(name: str, spec: Student) -> StudentPlan:
        role = f"student {name}" if name else "student"
        return student_plan(spec, lambda model: builder(model, role), facts_of_data(splits))

    def stored(name: str, spec: TeacherSpec) -> StorePlan | None:
        return None if spec.store is None else store_plan(
            spec.store, views, {} if taught else methods, classes=taught.get(name, classes), seeds=recipe.seeds,
            train=recipe.train, root=store, member=name,
        )  # fmt: skip

    plan = teacher_plan(recipe, trusted, stored, trust=trust)
    plan = _reading_others(plan, splits.train.reads)
    splits = splits.keeping({one.reads for one in (plan, *plan.members.values()) if one.reads})
    if taught:  # their logits stand in the order of the tasks
        plan = replace(plan, members={task: plan.members[task] for task in taught})
    if recipe.combine is None:
        check_alone(methods)
    else:
        plan = replace(plan, combine=combination(recipe.combine, list(plan.members), methods, views))
    students = planned({name: learner(name, spec) for name, spec in recipe.learners.items()}, plan, splits.train)
    students = headed(students, plan, splits.train)
    builds = {name: one.build for name, one in students.items()}
    return Job(
        name=recipe.name,
        config=dump(recipe),
        seeds=tuple(recipe.seeds),
        splits=splits,
        views=views,
        teacher=plan,
        students=students,
        arms=aligned(arms_of(recipe.learners, methods), builds, plan),
        train=recipe.train,
        device=recipe.device,
        threads=recipe.threads,
        compress=recipe.compress,
        export=recipe.export,
        resamples=recipe.report.bootstrap,
        latency=recipe.report.latency,
        trackers=recipe.report.trackers,
        balance=recipe.data.balance,
        labelled=labelled,
        notices=notices,
        trusted=_names_code(recipe),
        attack=recipe.report.attack,
        store=plan.store,
    )


def _names_code(recipe: Recipe) -> bool:
    """Whether a recipe names functions, which run where that is allowed."""
    named = [one.model for one in recipe.trusted.values()] + [one.model for one in recipe.learners.values()]
    named += [term.loss for terms in recipe.arms.values() for term in terms]
    # A function of arrays is code as well; models of other frameworks are files, and addresses run elsewhere.
    return any(
        ":" in name and not name.startswith("hf:") and (name.startswith("jax:") or not answers_elsewhere(name))
        for name in named
    )


def student_plan(
    spec: Student, builder: Callable[[ModelSpec], Callable[[], nn.Module]], facts: Mapping[str, object]
) -> StudentPlan:
    """A student of a recipe: how it begins to learn, and how its file is built again, for data of these facts."""
    if spec.quantise is not None:
        floats = student_plan(spec.model_copy(update={"quantise": None}), builder, facts)
        how, net = Quantise(**spec.quantise.model_dump()), floats.build
        return replace(floats, build=lambda: quantise(net(), how), plain=floats.plain or net)
    begins = beginning_of(spec)
    if begins is not None and begins.of_teacher:
        return StudentPlan(lambda: nn.Identity(), facts, begins=begins)  # until its teacher is known
    config = {"model": spec.model, "args": dict(spec.args), **facts}
    plain = builder(ModelSpec(spec.model, spec.args, None))
    if spec.weights is None and spec.adapter is None and not spec.frozen and begins is None:
        return StudentPlan(plain, config, start=spec.start, reuse=spec.head)
    weights = Path(spec.weights) if spec.weights is not None else None
    origin = builder(ModelSpec(spec.model, spec.args, weights))
    if weights is not None and (steps := steps_beside(weights)):
        plain, origin, config = *nets_beside(plain, weights, steps), {**config, "smaller": steps}
    if begins is not None:
        return StudentPlan(origin, config, plain, weights, spec.start, begins=replace(begins, origin=origin))
    adapter = None if spec.adapter is None else Adapter(**spec.adapter.model_dump())
    return StudentPlan(
        lambda: adapt(origin(), adapter, frozen=spec.frozen), config, plain, weights, spec.start, spec.head
    )


def _check_exports(formats: Sequence[str], where: str | None = None) -> None:
    check_formats(formats, where=where or "export")
    if "safetensors" in formats:
        raise InputError(
            "every student is written as safetensors anyway", where=where or "export", fix="leave `safetensors` out"
        )


def _check_labels(arms: Mapping[str, Objective], views: Views) -> None:
    wants = [name for name, objective in arms.items() if "labels" in objective.needs]
    if views.soft_targets and wants:
        raise InputError(
            f"arm `{wants[0]}` has a loss that needs one label per example, but mixup and cutmix mix labels",
            where="data.views",
            fix="turn them off, or choose a loss that takes probabilities (see `tutelage methods`)",
        )
