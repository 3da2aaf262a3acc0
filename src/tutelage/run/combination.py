"""What a recipe leaves open about several teachers, settled before any of them is trained or asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.data import Views
from tutelage.errors import InputError
from tutelage.objective import Objective
from tutelage.recipe import Combine
from tutelage.teachers import combining
from tutelage.teachers.combining import BY_TASK
from tutelage.teachers.ensemble import places_of_each

__all__ = ["check_alone", "combination"]


def combination(spec: Combine, names: Sequence[str], arms: Mapping[str, Objective], views: Views) -> dict[str, Any]:
    """How teachers answer as one, as keywords of `EnsembleTeacher`.

    Args:
        spec: what the recipe says.
        names: of the teachers, in their order.
        arms: what reads them.
        views: of the examples that they are asked about.

    Raises:
        InputError: an option that the form does not take, arms that read at several temperatures, or something that
            this form does not answer.
    """
    weights = [spec.weights[name] for name in names] if spec.weights else None
    options: dict[str, Any] = {"weights": weights, "seed": spec.seed, "temperature": spec.temperature}
    try:
        combining.check_options(spec.how, options)
        combining.shares_of(weights, len(names))
    except InputError as error:
        told = error.problem
        raise InputError(told.what, where="combine", given=told.given, expected=told.expected, fix=told.fix) from error
    for name, objective in arms.items():
        _check_reads(name, objective, names, spec.how)
    if spec.how == "confidence" and views.soft_targets:
        raise InputError(
            "weights by confidence need one label per example, but mixup and cutmix mix labels", where="combine.how",
            fix="turn them off, or combine by `entropy`, which reads no labels",
        )  # fmt: skip
    if spec.temperature is None and "temperature" in combining.TAKES[spec.how]:
        options["temperature"] = _read_at(arms)
    return {"names": list(names), "how": spec.how, **options}


def check_alone(arms: Mapping[str, Objective]) -> None:
    """Refuse an arm that reads the members of an ensemble where there is one teacher.

    Raises:
        InputError: there is such an arm.
    """
    for name, objective in arms.items():
        for title in _reading(objective, "teacher_members"):
            raise InputError(
                f"the loss `{title}` reads every member of an ensemble, but there is one teacher", where=f"arms.{name}",
                fix="name several under `teachers:`",
            )  # fmt: skip


def _reading(objective: Objective, word: str) -> list[str]:
    """The terms that read this of the teacher."""
    return [str(term.name) for term in objective.terms if term.reads_teacher and word in term.needs]


def _check_reads(name: str, objective: Objective, names: Sequence[str], how: str) -> None:
    """That every teacher's layer is one of a teacher, and that this form answers what an arm reads."""
    where = f"arms.{name}"
    for place in objective.teacher_places:
        if place.startswith("@"):
            raise InputError(
                "several teachers have no gradient at the input as one", where=where,
                fix="match gradients at a layer of one of them, or name one `teacher:`",
            )  # fmt: skip
        try:
            places_of_each([place], names)
        except InputError as error:
            told = error.problem
            raise InputError(told.what, where=where, expected=told.expected, fix=told.fix) from error
    members = _reading(objective, "teacher_members")
    if how == BY_TASK and members:
        raise InputError(
            f"`{members[0]}` reads every teacher's answer to one question, but each answers a task of its own",
            where=where, fix="use a loss that reads `teacher_logits`",
        )  # fmt: skip
    if how.startswith("random_") and (members or objective.teacher_places):
        what = f"`{members[0]}` reads every teacher" if members else f"it reads `{objective.teacher_places[0]}`"
        raise InputError(
            f"combined by `{how}` one teacher speaks at a time, but {what}", where=where,
            fix="combine them by `mean_probabilities`",
        )  # fmt: skip


def _read_at(arms: Mapping[str, Objective]) -> float | None:
    """The one temperature at which the combined answer is read; None where nothing reads it at any."""
    terms = [term for objective in arms.values() for term in objective.terms if term.reads_teacher]
    found = {bound for term in terms if "teacher_logits" in term.needs for bound in term.temperatures or ()}
    if len(found) > 1:
        raise InputError(
            "a mean of probabilities is taken at one temperature, but the arms read at several",
            where="combine.temperature",
            given=", ".join(f"{temperature:g}" for temperature in sorted(found)),
            fix="name one, use one in all arms, or combine by `mean_logits`, which needs none",
        )
    return next(iter(found), None)
