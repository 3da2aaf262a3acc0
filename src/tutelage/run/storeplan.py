"""What a recipe leaves open about the store of answers, settled before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from tutelage.data import Views
from tutelage.errors import InputError
from tutelage.objective import Objective
from tutelage.recipe import Store, Train
from tutelage.store import Codec, codec_of, draws_of, store_root
from tutelage.types import Batch, Outputs

__all__ = ["StorePlan", "check_stores", "store_plan"]

# Enough that no student sees the same picture in neighbouring epochs; few enough to be paid for once.
_RECORDED = 4


@final
@dataclass(frozen=True, slots=True)
class StorePlan:
    """A store of answers, with every question about it settled."""

    root: Path | str
    views: str | int  # none, replay, or how many
    codec: Codec
    precision: str | None = None
    features: tuple[str, ...] = ()

    @property
    def recorded(self) -> int:
        """How many recorded views epochs draw from; 0 where they draw as they would from a live teacher."""
        return self.views if isinstance(self.views, int) else 0


def store_plan(
    spec: Store,
    views: Views,
    arms: Mapping[str, Objective],
    *,
    classes: int,
    seeds: Sequence[int],
    train: Train,
    root: Path | str | None = None,
    member: str = "",
) -> StorePlan:
    """Settle what a recipe leaves open, and refuse what cannot work before anything is asked.

    Args:
        spec: what the recipe says.
        views: of the training examples.
        arms: what reads the answers.
        classes: of the data.
        seeds, train: of the students.
        root: where stores lie, if not where they usually do.
        member: the teacher's name, where it is one of several.

    Raises:
        InputError: random views would meet plain answers; or an arm, or the other teachers, cannot read what the codec
            keeps.
    """
    chosen: str | int = spec.views
    if chosen == "auto":
        own = len(seeds) * train.epochs
        chosen = "none" if not views.random else "replay" if own <= _RECORDED else _RECORDED
    if not views.random:
        chosen = "none"
    draws_of(chosen, views)
    if member:
        _check_whole(spec.codec, member)
    codec = codec_of(spec.codec, _temperature(spec, arms))
    where = f"teachers.{member}.store" if member else "teacher.store"
    _check_storable(arms, where)
    _check_codec(codec, arms, classes, where)
    return StorePlan(store_root(root), chosen, codec, spec.precision, tuple(spec.features))


def check_stores(plans: Mapping[str, StorePlan]) -> None:
    """Require that the stores of several teachers hold answers to the same views, since all see the same picture.

    Raises:
        InputError: two of them hold other views.
    """
    first = next(iter(plans), "")
    for name, plan in plans.items():
        one = plans[first]
        if plan.views != one.views:
            raise InputError(
                "the stores of the teachers hold other views",
                where=f"teachers.{name}.store.views", given=f"{first} {one.views}, {name} {plan.views}",
                expected="the same ones, since all teachers are asked about the same picture",
                fix=f"write `views: {one.views}` for both",
            )  # fmt: skip


def _check_whole(codec: str, member: str) -> None:
    """One of several teachers must answer with all logits, or nothing could be combined."""
    if codec.partition("-")[0] in ("top", "sample"):
        raise InputError(
            f"`{codec}` keeps a part of the classes, and parts of several teachers cannot be combined",
            where=f"teachers.{member}.store.codec", given=codec, expected="fp32, fp16, bf16 or int8",
        )  # fmt: skip


def _temperature(spec: Store, arms: Mapping[str, Objective]) -> float:
    if spec.codec.partition("-")[0] not in ("top", "sample"):
        return 1.0
    if spec.temperature is not None:
        return spec.temperature
    terms = [term for objective in arms.values() for term in objective.terms if term.reads_teacher]
    found = {bound for term in terms if term.temperatures is not None for bound in term.temperatures}
    if len(found) > 1:
        raise InputError(
            f"the codec {spec.codec} is taken at one temperature, but the arms read at several",
            where="teacher.store.codec",
            given=", ".join(f"{temperature:g}" for temperature in sorted(found)),
            fix="use one temperature that does not move, or a codec that keeps all logits: fp16, int8",
        )
    return next(iter(found), 1.0)


def _check_storable(arms: Mapping[str, Objective], where: str) -> None:
    """That what the arms read of the teacher is a function of examples and views, which is what a store holds."""
    for name, objective in arms.items():
        for term in objective.terms:
            if term.slopes("teacher") and term.gradient in ("label", "cross_entropy"):
                raise InputError(
                    f"arm `{name}` reads gradients that depend on labels, which the key of a store does not hold",
                    where=where, given=f"gradient: {term.gradient}", expected="max or projection",
                    fix="choose one of these, or leave the store out",
                )  # fmt: skip
            if "teacher_adversarial_logits" in term.needs:
                raise InputError(
                    f"arm `{name}` asks the teacher about inputs that attack the student, which nobody knows before",
                    where=where, given=str(term.name), expected="a live teacher", fix="leave the store out",
                )  # fmt: skip


def _check_codec(codec: Codec, arms: Mapping[str, Objective], classes: int, where: str) -> None:
    """Let every arm read one small answer as it will come from the store."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, generator=generator)
    ids = torch.tensor([1, 2])
    answer = Outputs(codec.decode(codec.encode(logits, ids, 0), classes))
    labels = torch.zeros(2, dtype=torch.int64)
    named = {term.task for objective in arms.values() for term in objective.terms}
    batch = Batch(ids, {}, labels, tasks={task: labels for task in named if task is not None})
    for name, objective in arms.items():
        on_logits = [term for term in objective.terms if term.reads_teacher and term.plain]
        if on_logits:
            try:
                Objective(on_logits)(Outputs(logits.clone()), answer, batch)
            except InputError as error:
                raise InputError(
                    f"arm `{name}` cannot read answers stored as {codec.name}: {error.problem.what}",
                    where=f"{where}.codec",
                    given=error.problem.given,
                    expected=error.problem.expected,
                    fix=error.problem.fix or "use a codec that keeps all logits: fp32, fp16, bf16 or int8",
                ) from error
