"""Layers lined up before anything is trained: the arms of a job, once both models are known by their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import nn

from tutelage.errors import InputError, ModelError
from tutelage.layermaps import lined_up
from tutelage.run.armplan import ArmPlan
from tutelage.run.teacherplan import TeacherPlan

__all__ = ["aligned"]


def aligned(
    arms: Mapping[str, ArmPlan], builds: Mapping[str, Callable[[], nn.Module]], teacher: TeacherPlan
) -> dict[str, ArmPlan]:
    """The arms, their maps of layers written out as pairs; nothing is built where there are none.

    Args:
        arms: by name.
        builds: what builds each student, by name.
        teacher: whose layers are meant.

    Raises:
        ModelError, InputError: layers that cannot be lined up; see `layermaps.lined_up`.
    """
    mapping = {
        name for name, arm in arms.items() if any(place.map for term in arm.objective.terms for place in term.places)
    }
    if not mapping:
        return dict(arms)
    with torch.random.fork_rng():
        module = _module(teacher)
        students = {name: builds[name]() for name in {arms[name].student for name in mapping}}
    found = dict(arms)
    for name in mapping:
        arm = arms[name]
        try:
            objective = lined_up(arm.objective, students[arm.student], module)
        except (ModelError, InputError) as error:
            said = error.problem
            raise type(error)(
                said.what, where=f"arms.{arm.method}", given=said.given, expected=said.expected, fix=said.fix
            ) from error
        found[name] = replace(arm, objective=objective)
    return found


def _module(plan: TeacherPlan) -> nn.Module | None:
    """A module with the teacher's layers, whatever it knows; of several teachers, all under their names."""
    if plan.members:
        built = {name: _module(one) for name, one in plan.members.items()}
        return nn.ModuleDict({name: module for name, module in built.items() if module is not None})
    if plan.module is not None:
        return plan.module
    return plan.build() if plan.build is not None else None
