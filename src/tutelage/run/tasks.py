"""What several tasks at once change in a run: whose logits a term reads, and which teachers can teach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tutelage.errors import InputError, Problem, RecipeError, nearest
from tutelage.objective import Objective
from tutelage.recipe import Recipe
from tutelage.teachers.combining import BY_TASK
from tutelage.words import is_fitted

__all__ = ["taught_tasks", "with_tasks"]


def with_tasks(methods: Mapping[str, Objective], sizes: Mapping[str, int]) -> dict[str, Objective]:
    """The objectives, whose terms know where their task's logits stand; as they are where there is one task.

    Args:
        methods: name of an arm -> what it minimises.
        sizes: task -> number of its classes, the main one first.

    Raises:
        RecipeError: terms of tasks that there are none of, or that there cannot be; all of them together.
    """
    problems: list[Problem] = []
    found: dict[str, Objective] = {}
    for name, objective in methods.items():
        try:
            found[name] = objective.for_tasks(sizes)
        except InputError as error:
            problems.append(replace(error.problem, where=f"arms.{name}"))
    if problems:
        raise RecipeError(problems)
    return found


def taught_tasks(recipe: Recipe, sizes: Mapping[str, int]) -> dict[str, int]:
    """The tasks that have a teacher of their own, with the number of their classes; none where all teach the same.

    Args:
        recipe: what to do.
        sizes: task -> number of its classes, the main one first.

    Raises:
        InputError: teachers are not one for each task, or would be combined in a way that mixes tasks up.
    """
    if len(sizes) > 1 and (recipe.combine is None or recipe.combine.how != BY_TASK):
        _refuse_fitted(recipe, list(sizes))
    if recipe.combine is None:
        return {}
    how, names = recipe.combine.how, list(recipe.trusted)
    if how != BY_TASK:
        if len(sizes) > 1 and how != "mean_logits":
            raise InputError(
                "probabilities over the classes of several tasks mean nothing, so teachers cannot be combined by them",
                where="combine.how", given=how, expected="mean_logits, or tasks",
                fix="combine them by `mean_logits`, or name one teacher like each task and combine by `tasks`",
            )  # fmt: skip
        return {}
    if len(sizes) == 1:
        raise InputError(
            "teachers of a task each need data with several tasks", where="combine.how", given=how,
            expected="labels of further tasks: data.tasks of columns, or targets_<task> in an .npz file",
        )  # fmt: skip
    for name in names:
        if name not in sizes:
            raise InputError(
                f"teacher `{name}` is named like no task", where=f"teachers.{name}", expected=", ".join(sizes),
                fix=nearest(name, sizes),
            )  # fmt: skip
    if missing := [task for task in sizes if task not in names]:
        raise InputError(
            f"nobody teaches the task `{missing[0]}`", where="teachers", given=", ".join(names),
            expected=", ".join(sizes), fix=f"name a teacher {missing[0]}",
        )  # fmt: skip
    return dict(sizes)


def _refuse_fitted(recipe: Recipe, tasks: list[str]) -> None:
    """Refuse teachers that learn one column of labels, and would answer all tasks by it."""
    for name, one in recipe.trusted.items():
        if is_fitted(one.model):
            raise InputError(
                "a teacher that is fitted learns one task", where=f"teachers.{name}.model" if name else "teacher.model",
                given=f"{one.model} for {', '.join(tasks)}", expected="one teacher for each task",
                fix="name `teachers` like the tasks, and combine: {how: tasks}",
            )  # fmt: skip
