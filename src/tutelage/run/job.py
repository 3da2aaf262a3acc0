"""A job is a recipe with everything in hand: examples, builders of models, objectives. Python can make one directly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from tutelage import losses
from tutelage.attacks import Attack
from tutelage.data import SOURCES, Examples, Splits, Views, as_model_input, fold_of, load
from tutelage.errors import InputError, Problem, RecipeError
from tutelage.models import NETS, ModelSpec, build
from tutelage.objective import Objective, Term
from tutelage.recipe import Recipe, ScheduleSpec, Student, TermSpec, Train, check_names, dump
from tutelage.run.storeplan import StorePlan, store_plan
from tutelage.schedules import Schedule
from tutelage.teachers import Teacher

__all__ = [
    "ArmPlan",
    "Job",
    "StudentPlan",
    "TeacherPlan",
    "arms_of",
    "facts_of_data",
    "job_of_recipe",
    "objective_of",
    "statistics",
]


@dataclass(frozen=True, slots=True, eq=False)
class TeacherPlan:
    """How to come by a teacher: it was given, or it is built, and then loaded or trained."""

    given: Teacher | None = None
    module: nn.Module | None = None  # the module behind a given teacher, where there is one
    build: Callable[[], nn.Module] | None = None  # called with torch's generator seeded
    weights: Path | None = None
    train: Train | None = None
    seed: int = 0
    describes: str = ""  # enough text to tell two untrained teachers apart


@dataclass(frozen=True, slots=True, eq=False)
class StudentPlan:
    """How a student is built, and the facts by which its file is built again."""

    build: Callable[[], nn.Module]  # called with torch's generator seeded
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ArmPlan:
    """One student by one method: what a run trains for every seed."""

    student: str  # its name, "" where there is one
    method: str
    objective: Objective


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
    resamples: int = 10_000
    latency: bool = True
    trackers: tuple[str, ...] = ()
    store: StorePlan | None = None  # None: the teacher answers anew at every step

    @property
    def teacher_places(self) -> tuple[str, ...]:
        """The teacher's layers whose outputs are asked for, by arms or by the store."""
        wanted = [place for arm in self.arms.values() for place in arm.objective.teacher_places]
        return tuple(dict.fromkeys([*wanted, *(self.store.features if self.store is not None else ())]))


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
    problems = list(check_names(recipe, losses=losses.__all__, models=sorted(NETS), sources=sorted(SOURCES)))
    if problems:
        raise RecipeError(problems)
    views = Views(**recipe.data.views.model_dump())
    methods = {name: objective_of(terms, f"arms.{name}") for name, terms in recipe.arms.items()}
    _check_labels(methods, views)
    source = recipe.data
    splits = load(
        source.source,
        path=Path(source.path) if source.path else None,
        val=source.val,
        test=source.test,
        seed=0,
        image_size=source.image_size,
    )
    if source.fold is not None:
        number, count = map(int, source.fold.split("/"))
        splits = fold_of(splits, number, count, val=source.val)
    if source.limit is not None and source.limit < len(splits.train):
        # The first rows in the order of ids are a fixed random sample, since ids are hashes.
        train = splits.train.take(torch.arange(source.limit))
        splits = replace(splits, train=train)
    mean, std = statistics(splits.train)
    classes = len(splits.train.classes)

    def builder(spec: ModelSpec, role: str) -> Callable[[], nn.Module]:
        shape = splits.train.shape
        return lambda: build(spec, input_shape=shape, classes=classes, mean=mean, std=std, trust=trust, role=role)

    def learner(name: str, spec: Student) -> StudentPlan:
        role = f"student {name}" if name else "student"
        facts = {"model": spec.model, "args": dict(spec.args)}
        return StudentPlan(builder(ModelSpec(spec.model, spec.args, None), role), facts | facts_of_data(splits))

    teacher = ModelSpec(recipe.teacher.model, recipe.teacher.args, None)
    plan = TeacherPlan(
        build=builder(teacher, "teacher"),
        weights=Path(recipe.teacher.weights) if recipe.teacher.weights else None,
        train=recipe.teacher.train,
        seed=recipe.teacher.seed,
        describes=f"{recipe.teacher.model} {dict(recipe.teacher.args)}",
    )
    return Job(
        name=recipe.name,
        config=dump(recipe),
        seeds=tuple(recipe.seeds),
        splits=splits,
        views=views,
        teacher=plan,
        students={name: learner(name, spec) for name, spec in recipe.learners.items()},
        arms=arms_of(recipe.learners, methods),
        train=recipe.train,
        device=recipe.device,
        threads=recipe.threads,
        compress=recipe.compress,
        resamples=recipe.report.bootstrap,
        latency=recipe.report.latency,
        trackers=recipe.report.trackers,
        store=None if recipe.teacher.store is None else store_plan(
            recipe.teacher.store, views, methods, classes=classes, seeds=recipe.seeds, train=recipe.train, root=store
        ),
    )  # fmt: skip


def arms_of(students: Iterable[str], methods: Mapping[str, Objective]) -> dict[str, ArmPlan]:
    """Every student by every method: `distilled` where there is one student, `small.distilled` where there are more."""
    return {
        f"{student}.{method}" if student else method: ArmPlan(student, method, objective)
        for student in students
        for method, objective in methods.items()
    }


def facts_of_data(splits: Splits) -> dict[str, object]:
    """What of the data a student's file must remember to be built again."""
    mean, std = statistics(splits.train)
    shape, classes = list(splits.train.shape), list(splits.train.classes)
    return {"input_shape": shape, "classes": classes, "mean": mean, "std": std}


def objective_of(terms: Sequence[TermSpec], where: str) -> Objective:
    """Terms of a recipe -> an objective.

    Raises:
        RecipeError: options or temperatures that a loss does not take; all of them together.
    """
    made: list[Term] = []
    problems: list[Problem] = []
    for number, term in enumerate(terms):
        try:
            made.append(
                Term(
                    getattr(losses, term.loss),
                    weight=_moving(term.weight),
                    temperature=None if term.temperature is None else _moving(term.temperature),
                    name=term.name,
                    options=dict(term.options),
                    at=[(place.student, place.teacher) for place in term.at],
                    connector=term.connector,
                    gradient=term.gradient,
                    attack=None if term.attack is None else Attack(**term.attack.model_dump()),
                )
            )
        except InputError as error:
            problems.append(replace(error.problem, where=f"{where}.{number}"))
    if problems:
        raise RecipeError(problems)
    return Objective(made)


def statistics(train: Examples) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the training part: per channel of images, over everything otherwise."""
    inputs = as_model_input(train.inputs)
    axes = [0, 2, 3] if inputs.ndim == 4 else list(range(inputs.ndim))
    # In float64, so that the numbers do not depend on how many threads added them up.
    inputs = inputs.double()
    mean, std = inputs.mean(axes), inputs.std(axes, correction=0)
    return mean.reshape(-1).float().tolist(), std.clamp(min=1e-6).reshape(-1).float().tolist()


def _moving(value: float | ScheduleSpec) -> float | Schedule:
    return value.build() if isinstance(value, ScheduleSpec) else value


def _check_labels(arms: Mapping[str, Objective], views: Views) -> None:
    wants = [name for name, objective in arms.items() if "labels" in objective.needs]
    if views.soft_targets and wants:
        raise InputError(
            f"arm `{wants[0]}` has a loss that needs one label per example, but mixup and cutmix mix labels",
            where="data.views",
            fix="turn them off, or choose a loss that takes probabilities (see `tutelage methods`)",
        )
