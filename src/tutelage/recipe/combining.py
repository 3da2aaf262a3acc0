"""Several teachers in a recipe: how they answer as one, and what cannot be meant."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tutelage.errors import InputError, nearest
from tutelage.recipe.kinds import ArmName, NotNegative, Positive, Section, Seed

__all__ = ["Combine", "settled"]


class Combine(Section):
    """How several teachers answer as one."""

    how: Literal[
        "mean_probabilities", "mean_logits", "entropy", "confidence", "random_example", "random_step", "tasks"
    ] = "mean_probabilities"
    """mean_probabilities, mean_logits; the mean of probabilities by certainty on each example: entropy, or confidence,
    which reads labels; random_example, random_step: one teacher for each example and view, or for each batch;
    tasks: each teacher answers the task that it is named like."""
    weights: dict[ArmName, NotNegative] = Field(default_factory=dict)
    """How much each teacher counts, by name, or how often a random form draws it; equal where nothing is named."""
    temperature: Positive | None = None
    """At which the mean of probabilities is taken; null takes that of the arms."""
    seed: Seed | None = None
    """From which the random forms draw."""


def check_twins(teachers: Mapping[str, Section]) -> None:
    """Refuse two teachers of which nothing differs but how their answers are stored.

    Raises:
        InputError: there are such two.
    """
    for (name, one), (other, two) in itertools.combinations(teachers.items(), 2):
        if one.model_copy(update={"store": None}) == two.model_copy(update={"store": None}):
            learns = getattr(one, "train", None) is not None
            raise InputError(
                f"`{name}` and `{other}` are the same teacher twice",
                fix="give each a `seed` of its own, so that they start from other weights" if learns
                else "keep one of them, and say by `combine.weights` how much it counts",
            )  # fmt: skip


def settled(combine: Combine | None, teachers: Mapping[str, Section]) -> Combine | None:
    """What a recipe says of how its teachers combine, with every default; None where there is one teacher.

    Args:
        combine: as it was written.
        teachers: by name, none where there is one.

    Raises:
        InputError: there is nothing to combine, two teachers are the same, or the weights are not those of these.
    """
    if not teachers:
        if combine is not None:
            raise InputError("there is one teacher, and nothing to combine", fix="name several under `teachers:`")
        return None
    # The same net and settings for another task are another teacher.
    if combine is None or combine.how != "tasks":
        check_twins(teachers)
    weights = {} if combine is None else combine.weights
    for name in weights:
        if name not in teachers:
            raise InputError(f"no teacher is called `{name}`, which has a weight", fix=nearest(name, teachers))
    if missing := [name for name in teachers if weights and name not in weights]:
        raise InputError(
            f"the weights name no `{missing[0]}`", expected="one for each of " + ", ".join(teachers),
            fix=f"write {missing[0]}: 0 for one that has no say",
        )  # fmt: skip
    return combine or Combine()
