"""The data-free methods by name: what a generator is to bring about, and what the student makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from tutelage.errors import InputError, nearest
from tutelage.losses import attention_transfer, soft_target
from tutelage.losses.targets import average, dense, pair
from tutelage.objective import Objective, Term

__all__ = ["METHODS", "Aims", "Method", "logit_l1", "method_by_name", "objective_of"]


def logit_l1(student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of logits; (…, C), (…, C) → ().

    What data-free adversarial distillation uses: its gradient does not vanish as the student comes close.

    Raises:
        InputError: shapes that do not belong together, or a teacher that gave only some of its logits.

    Reference:
        Fang and others 2019, arXiv 1912.11006.
    """
    ours, theirs = pair(student_logits, dense(teacher_logits, "logit_l1"), mask)
    return average((ours - theirs).abs().mean(-1), mask)


@final
@dataclass(frozen=True, slots=True)
class Aims:
    """What a generator's inputs should do: weights of the losses in `synthesis_losses`, 0 for those that do not count.

    Args:
        sureness: the teacher is sure.
        activation: its last feature is large.
        balance: all classes come alike.
        statistics: its batch norms see what they saw in training.
        disagreement: the student answers something else than the teacher.
        kind: how that is measured: "kl", "l1" or "js".

    Raises:
        InputError: a weight is negative or no number.
    """

    sureness: float = 0.0
    activation: float = 0.0
    balance: float = 0.0
    statistics: float = 0.0
    disagreement: float = 0.0
    kind: str = "kl"

    def __post_init__(self) -> None:
        for name in ("sureness", "activation", "balance", "statistics", "disagreement"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"the weight `{name}` is out of range", given=getattr(self, name), expected="a number ≥ 0"
                )


@final
@dataclass(frozen=True, slots=True)
class Method:
    """A method: the generator's aims, and how many steps the student takes for one of the generator's."""

    line: str
    aims: Aims
    student_steps: int


METHODS: Mapping[str, Method] = {
    # Weights of the DataFree collection of implementations.
    "dafl": Method(
        "a generator makes what the teacher is sure of, all classes alike",
        Aims(sureness=1.0, activation=0.001, balance=20.0), 1,
    ),
    "zskt": Method(
        "a generator makes what the student does not yet answer as the teacher does, by KL", Aims(disagreement=1.0), 10
    ),
    "dfad": Method("the same by the absolute difference of logits", Aims(disagreement=1.0, kind="l1"), 5),
}  # fmt: skip


def method_by_name(name: str) -> Method:
    """A method of `METHODS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METHODS:
        raise InputError(f"no data-free method `{name}`", expected=" or ".join(METHODS), fix=nearest(name, METHODS))
    return METHODS[name]


def objective_of(method: str, at: Sequence[tuple[str, str]]) -> Objective:
    """What the student learns by: soft targets at T = 6 (dafl) or 1 (zskt), logits (dfad); and attention at places.

    Attention has the weight of zero-shot transfer, 250, at each place.
    """
    matched: dict[str, Term] = {
        "dafl": Term(soft_target, temperature=6.0), "zskt": Term(soft_target, temperature=1.0), "dfad": Term(logit_l1),
    }  # fmt: skip
    return Objective([matched[method], *(Term(attention_transfer, 250.0, at=(ours, theirs)) for ours, theirs in at)])
