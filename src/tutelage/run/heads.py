"""Students that end in their teacher's last layer: shaped before anything is trained, filled in once it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tutelage.data import Examples, as_model_input
from tutelage.errors import InputError, ModelError
from tutelage.models.heads import head_of
from tutelage.models.reuse import HeadFacts, check_read, reuse_head, take_head, with_head
from tutelage.run.teacherplan import TeacherPlan
from tutelage.taps import Taps, feature_at
from tutelage.types import Outputs

if TYPE_CHECKING:
    from tutelage.run.job import StudentPlan

__all__ = ["filled", "headed"]

_EXAMPLES = 8


def headed(students: Mapping[str, StudentPlan], teacher: TeacherPlan, train: Examples) -> dict[str, StudentPlan]:
    """The plans, those with a `reuse` now of the shape that the teacher's last layer asks for.

    Args:
        students: by name; what has its shape already stays as it is.
        teacher: whose last layer is meant.
        train: a few of whose examples show whether it can be.

    Raises:
        ModelError: it cannot; or there are several teachers, or none that is a module.
    """
    found = dict(students)
    for name, plan in students.items():
        if plan.reuse is None or plan.head is not None:
            continue
        where = f"students.{name}.head" if name else "student.head"
        if teacher.members or (teacher.module is None and teacher.build is None):
            raise ModelError(
                "a student can end in the last layer of one teacher that is a module", where=where,
                given=f"{len(teacher.members)} teachers" if teacher.members else "answers only",
                fix="name one `teacher`",
            )  # fmt: skip
        with torch.random.fork_rng():
            module = teacher.module if teacher.module is not None else _built(teacher)
            place = plan.reuse.student, plan.reuse.teacher
            try:
                _, facts = reuse_head(plan.build(), module, at=place, example=_example(train), factor=plan.reuse.factor)
            except (ModelError, InputError) as error:
                said = error.problem
                raise type(error)(
                    said.what, where=where, given=said.given, expected=said.expected, fix=said.fix
                ) from error
        found[name] = replace(
            plan,
            head=facts,
            build=_shaped(plan.build, facts),
            plain=None if plan.plain is None else _shaped(plan.plain, facts),
            config={**plan.config, "head": facts.to_json()} if plan.config else plan.config,
        )
    return found


def filled(students: Mapping[str, StudentPlan], teacher: nn.Module | None, train: Examples) -> dict[str, StudentPlan]:
    """The plans of `headed`, whose students now begin with the last layer of the teacher as it is.

    Raises:
        ModelError: it is not what reads the layer that was named.
    """
    found = dict(students)
    for name, plan in students.items():
        if plan.head is None or plan.reuse is None:
            continue
        assert teacher is not None
        device = next(teacher.parameters()).device
        with torch.no_grad(), Taps(teacher, [plan.reuse.teacher]) as taps:
            answer = Outputs(teacher(_example(train).to(device)), taps.take())
        feature = feature_at(answer.features, plan.reuse.teacher, "the teacher")
        head = check_read(head_of(teacher, answer), feature, answer.logits).cpu()
        found[name] = replace(plan, build=_taking(plan.build, head, plan.head))
    return found


def _shaped(build: Callable[[], nn.Module], facts: HeadFacts) -> Callable[[], nn.Module]:
    return lambda: with_head(build(), facts)


def _taking(build: Callable[[], nn.Module], head: nn.Linear, facts: HeadFacts) -> Callable[[], nn.Module]:
    return lambda: take_head(build(), head, facts)


def _built(teacher: TeacherPlan) -> nn.Module:
    assert teacher.build is not None
    return teacher.build()


def _example(train: Examples) -> Tensor:
    return as_model_input(train.inputs[:_EXAMPLES])
