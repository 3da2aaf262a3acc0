"""What a recipe says of attacks: the one that students learn under, and the one by which all models are judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tutelage.recipe.kinds import Count, Section


class _Steps(Section):
    """Projected gradient steps in a ball around an input."""

    eps: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    """The largest change of a number of the inputs, which lie in [0, 1]."""
    steps: Annotated[int, Field(ge=0, le=1000)] = 10
    """How many; each costs a forward and a backward pass."""
    step: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """The size of one; null is 2.5 · eps / steps."""


class AttackSpec(_Steps):
    """What attacks the student while it learns: projected gradient steps in a ball around its inputs."""

    raises: Literal["target", "teacher"] = "target"
    """What grows: the cross-entropy with the target, or the distance from the teacher's answer to the plain input."""
    random: bool = True
    """Start from a random point of the ball."""


class RobustnessSpec(_Steps):
    """What attacks every model at the end, each by its own gradients: PGD on the cross-entropy, from random starts.

    Stronger than the attack that students learned under: a model may have learned to withstand just that one.
    """

    steps: Annotated[int, Field(ge=0, le=1000)] = 20
    """How many; each costs a forward and a backward pass. More than in training, so that a model which merely makes
    the attack it knows fail is found out."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    """From how many random points of the ball; an example must withstand all of them."""
    examples: Count = 1000
    """How many of the test part are attacked, the first in the order of their ids, since each one costs `restarts`
    times `steps` forward and backward passes of every model."""
