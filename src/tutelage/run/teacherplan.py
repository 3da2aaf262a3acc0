"""How a run comes by its teacher, or by several: what a recipe says of them, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.data import Examples
from tutelage.files import cache_folder
from tutelage.models import ModelSpec
from tutelage.recipe import Recipe, Train
from tutelage.recipe.schema import Teacher as TeacherSpec
from tutelage.run.storeplan import StorePlan, check_stores
from tutelage.teachers import Teacher
from tutelage.words import answers_elsewhere, is_remote

__all__ = ["TeacherPlan", "teacher_plan"]


# What it may learn from, which layers are asked for, beside which path it keeps what it needs, how to tell a person
# -> whom to ask.
Opening = Callable[[Examples, Sequence[str], Path, Callable[[str], None]], Teacher]


@dataclass(frozen=True, slots=True, eq=False)
class TeacherPlan:
    """How to come by a teacher: it was given, or it is built, and then loaded or trained; or by several."""

    given: Teacher | None = None
    module: nn.Module | None = None  # the module behind a given teacher, where there is one
    build: Callable[[], nn.Module] | None = None  # called with torch's generator seeded
    weights: Path | None = None
    train: Train | None = None
    seed: int = 0
    describes: str = ""  # enough text to tell two untrained teachers apart
    members: Mapping[str, TeacherPlan] = field(default_factory=dict)  # several, by name
    combine: Mapping[str, Any] = field(default_factory=dict)  # how these answer as one: keywords of EnsembleTeacher
    name: str = ""  # of a member
    places: tuple[str, ...] = ()  # of a member: its own layers, of those that arms name
    store: StorePlan | None = None  # None: it answers anew at every step
    spec: ModelSpec | None = None  # of what `build` builds, where it has a name
    opens: Opening | None = None  # of one that is no torch module
    reads: str = ""  # the view of the examples that it is asked about; "" is what students read
    cross_fit: int = 0  # of so many folds each is answered about by one that did not learn from it; 0: by one of all

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"teacher {self.name}".rstrip()

    @property
    def slug(self) -> str:
        """What its files and curves are called."""
        return self.title.replace(" ", "-")


def opening(spec: ModelSpec, *, seed: int = 0, trust: bool = False) -> Opening:
    """How a teacher that is no torch module comes to answer: opened, or first fitted on the training part."""

    def opens(train: Examples, places: Sequence[str], place: Path, tell: Callable[[str], None]) -> Teacher:
        args: dict[str, Any] = dict(spec.args)
        if is_remote(spec.name):
            from tutelage.teachers.remote import Encodings, open_remote

            asked = next((one for one in train.encodings.values() if one.get("separator")), None)  # of questions
            return open_remote(
                spec.name, args, classes=train.outputs, view="x", book=cache_folder() / "answers",
                encodings=Encodings(train.encodings.get(train.reads), asked, train.reads), tell=tell,
            )  # fmt: skip
        from tutelage.teachers.foreign import open_foreign

        return open_foreign(
            spec.name, args, classes=train.outputs, fit=(train.inputs, train.targets), view="x", seed=seed,
            trust=trust, keep=place, places=places,
        )  # fmt: skip

    return opens


def teacher_plan(
    recipe: Recipe,
    builder: Callable[[ModelSpec, str], Callable[[], nn.Module]],
    stored: Callable[[str, TeacherSpec], StorePlan | None],
    *,
    trust: bool,
) -> TeacherPlan:
    """The plan of a recipe's teacher, or of all of several; how these answer as one is settled elsewhere.

    Args:
        recipe: what to do.
        builder: a model's spec and the teacher's name -> what builds it.
        stored: a teacher's name and its part of the recipe -> where its answers are stored.
        trust: whether code that the recipe names may run.

    Raises:
        InputError: the stores of several do not fit together.
    """
    # A trained teacher is found again by these words.
    balanced = f", classes balanced: {recipe.data.balance}" if recipe.data.balance != "none" else ""
    plans = {
        name: TeacherPlan(
            build=None if answers_elsewhere(spec.model) else builder(ModelSpec(spec.model, spec.args, None), name),
            opens=opening(ModelSpec(spec.model, spec.args, None), seed=spec.seed, trust=trust)
            if answers_elsewhere(spec.model)
            else None,
            weights=Path(spec.weights) if spec.weights else None,
            train=spec.train,
            seed=spec.seed,
            describes=f"{spec.model} {dict(spec.args)}{balanced}",
            name=name,
            store=stored(name, spec),
            spec=ModelSpec(spec.model, spec.args, None),
            reads=spec.reads or "",
            cross_fit=spec.cross_fit or 0,
        )
        for name, spec in recipe.trusted.items()
    }
    if "" in plans:
        return plans[""]
    check_stores({name: one.store for name, one in plans.items() if one.store is not None})
    return TeacherPlan(members=plans, describes="; ".join(one.describes for one in plans.values()))
