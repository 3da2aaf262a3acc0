"""What several tasks at once change in a run: whose logits a term reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tutelage.errors import InputError, Problem, RecipeError
from tutelage.objective import Objective

__all__ = ["with_tasks"]


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
