"""What questions change in a run: places that cannot be answers hold a fixed logit, which some losses would count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tutelage.errors import InputError, RecipeError
from tutelage.objective import Objective
from tutelage.recipe import Recipe
from tutelage.terms import Term, title_of

__all__ = ["check_questions", "check_terms"]

# With the fixed logits among the others: a spread that is theirs, or shares for places that there are none of.
_COUNTING = frozenset({"standardized", "teacher_free", "dist", "collaborative_ranking", "margin_mse", "multi_level"})
_HEARD = "soft_target, cross_entropy, hard_label, decoupled, jensen_shannon, …"


def check_questions(recipe: Recipe, methods: Mapping[str, Objective]) -> None:
    """Refuse what cannot be done with places.

    Args:
        recipe: what to do.
        methods: name of an arm -> what it minimises.

    Raises:
        RecipeError: losses that would count places which cannot be answers; all of them together.
        InputError: a store that would round places away.
    """
    check_terms(methods)
    for name, one in recipe.trusted.items():
        if one.store is not None and one.store.codec == "int8":
            raise InputError(
                "the steps of int8 are too wide beside the fixed logit of places that cannot be answers",
                where=f"teachers.{name}.store.codec" if name else "teacher.store.codec", given="int8",
                expected="fp16 or fp32",
            )  # fmt: skip


def check_terms(methods: Mapping[str, Objective]) -> None:
    """Refuse losses that would count places which cannot be answers.

    Raises:
        RecipeError: all of them together.
    """
    problems = [
        replace(error.problem, where=f"arms.{name}")
        for name, objective in methods.items()
        for error in map(_counted, objective.terms)
        if error is not None
    ]
    if problems:
        raise RecipeError(problems)


def _counted(term: Term) -> InputError | None:
    loss = title_of(term.loss)
    smoothing = loss == "cross_entropy" and float(dict(term.options).get("label_smoothing", 0.0)) > 0
    if not smoothing and loss not in _COUNTING:
        return None
    return InputError(
        f"the loss `{loss}` would count places that cannot be answers", given="label_smoothing" if smoothing else None,
        expected=_HEARD,
    )  # fmt: skip
