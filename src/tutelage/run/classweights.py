"""Class weights that a recipe asks for in words, or as a list, settled once the training part is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tutelage.data.balance import class_weights, counts_of
from tutelage.data.examples import Task
from tutelage.errors import InputError, Problem, RecipeError, TutelageError
from tutelage.objective import Objective, Term

__all__ = ["weigh_classes"]

_OPTION = "class_weights"


def weigh_classes(
    methods: Mapping[str, Objective],
    labels: Tensor,
    classes: Sequence[str],
    *,
    balance: str,
    tasks: Mapping[str, Task] = MappingProxyType({}),
) -> dict[str, Objective]:
    """The objectives with numbers where their terms have words: `options: {class_weights: balanced}`.

    Args:
        methods: name of an arm -> what it minimises; those that weigh no classes come back as they are.
        labels: (N,) of the training examples that have one, to be counted.
        classes: names of the classes.
        balance: how an epoch samples the training part; see `Batches`.
        tasks: further labels of the same examples, for terms that are of another task.

    Raises:
        RecipeError: weights that cannot be made; all of them together.
    """
    problems: list[Problem] = []
    found: dict[str, Objective] = {}
    for name, objective in methods.items():
        terms = []
        for number, term in enumerate(objective.terms):
            try:
                own = tasks.get(term.task or "", Task(labels, tuple(classes)))
                terms.append(_weighed(term, own.targets, own.classes, balance))
            except TutelageError as error:
                problems.append(replace(error.problem, where=f"arms.{name}.{number}.options.{_OPTION}"))
        changed = any(one is not other for one, other in zip(terms, objective.terms, strict=False))
        found[name] = Objective(terms) if changed else objective
    if problems:
        raise RecipeError(problems)
    return found


def _weighed(term: Term, labels: Tensor, classes: Sequence[str], balance: str) -> Term:
    options: dict[str, Any] = dict(term.options)
    how = options.get(_OPTION)
    if how is None or isinstance(how, Tensor):
        return term
    if balance != "none" and not isinstance(how, (list, tuple)):
        raise InputError(
            "rare classes would be made up for twice", given=f"class_weights {how}, and data.balance {balance}",
            expected="one of the two", fix="take out either, or give a number for each class",
        )  # fmt: skip
    weights = class_weights(how, counts_of(labels, classes), classes)
    return replace(term, options={**options, _OPTION: torch.from_numpy(weights).float()})
