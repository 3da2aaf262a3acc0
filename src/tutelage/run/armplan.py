"""What is trained for every seed: students by methods, and in what order, since some are taught by others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tutelage import losses
from tutelage.attacks import Attack
from tutelage.errors import InputError, Problem, RecipeError, nearest
from tutelage.extensions import loss_named
from tutelage.objective import Objective, Place, Term
from tutelage.recipe import ScheduleSpec, TermSpec
from tutelage.schedules import Schedule
from tutelage.sources import FromArm, Peers, Pseudo

__all__ = ["ArmPlan", "arms_of", "objective_of", "waves_of"]


@dataclass(frozen=True, slots=True, eq=False)
class ArmPlan:
    """One student by one method: what a run trains for every seed."""

    student: str  # its name, "" where there is one
    method: str
    objective: Objective


def arms_of(students: Iterable[str], methods: Mapping[str, Objective]) -> dict[str, ArmPlan]:
    """Every student by every method: `distilled` where there is one student, `small.distilled` where there are more.

    Raises:
        InputError: an arm listens to peers that there are none of, to an arm that is not there, or to itself.
    """
    names = list(students)
    plans = {
        f"{student}.{method}" if student else method: ArmPlan(student, method, objective)
        for student in names
        for method, objective in methods.items()
    }
    made = {name: replace(plan, objective=_at_home(name, plan, plans)) for name, plan in plans.items()}
    waves_of(made)
    return made


def waves_of(arms: Mapping[str, ArmPlan]) -> list[dict[str, ArmPlan]]:
    """The arms in the order in which they can be trained: each after those whose students teach it.

    Raises:
        InputError: arms wait for each other.
    """
    waves: list[dict[str, ArmPlan]] = []
    done: set[str] = set()
    while len(done) < len(arms):
        ready = {name: arm for name, arm in arms.items() if name not in done and set(arm.objective.arms) <= done}
        if not ready:
            waiting = [name for name in arms if name not in done]
            raise InputError(
                "arms wait for each other's students", where=f"arms.{waiting[0]}", given=", ".join(waiting),
                expected="at least one of them that listens to none of the others",
            )  # fmt: skip
        waves.append(ready)
        done |= set(ready)
    return waves


def _at_home(name: str, plan: ArmPlan, plans: Mapping[str, ArmPlan]) -> Objective:
    """An arm's objective, with the arms that it listens to by their whole names."""
    terms = []
    for term in plan.objective.terms:
        source = term.speaker
        if isinstance(source, (FromArm, Pseudo)) and source.arm is not None:
            own = f"{plan.student}.{source.arm}" if plan.student else source.arm
            whole = source.arm if source.arm in plans else own
            if whole not in plans:
                known = ["ema", "peers", "pseudo", "route", "teacher", *plans, *(arm.method for arm in plans.values())]
                raise InputError(
                    f"no arm `{source.arm}` whose student could teach", where=f"arms.{plan.method}",
                    given=f"source: {source.arm}", expected="teacher, ema, peers, pseudo, route, or the name of an arm",
                    fix=nearest(source.arm, known),
                )  # fmt: skip
            term = replace(term, source=replace(source, arm=whole))
        if isinstance(source, Peers) and not any(p.method == plan.method and o != name for o, p in plans.items()):
            raise InputError(
                f"arm `{plan.method}` listens to peers, but there is one student", where=f"arms.{plan.method}",
                fix="name several under `students:`; two of the same net differ by `start`",
            )  # fmt: skip
        terms.append(term)
    return Objective(terms)


def objective_of(terms: Sequence[TermSpec], where: str, *, trust: bool = False) -> Objective:
    """Terms of a recipe -> an objective.

    Args:
        terms: at least one.
        where: what messages call the place, such as `arms.distilled`.
        trust: whether a term may name code.

    Raises:
        RecipeError: losses from elsewhere that cannot be used, options or temperatures that a loss does not take; all
            of them together.
    """
    built_in = {name: getattr(losses, name) for name in losses.__all__}
    made: list[Term] = []
    problems: list[Problem] = []
    for number, term in enumerate(terms):
        try:
            made.append(
                Term(
                    loss_named(term.loss, built_in=built_in, trust=trust),
                    weight=_moving(term.weight),
                    temperature=None if term.temperature is None else _moving(term.temperature),
                    name=term.name,
                    options=dict(term.options),
                    at=[Place(place.student, place.teacher, place.map or "") for place in term.at],
                    connector=term.connector,
                    gradient=term.gradient,
                    attack=None if term.attack is None else Attack(**term.attack.model_dump()),
                    source=None if term.source is None else term.source.build(),
                    companion=dict(term.companion),
                    task=term.task,
                )
            )
        except InputError as error:
            whose = f", {error.problem.where}" if error.problem.where else ""
            problems.append(replace(error.problem, where=f"{where}.{number}{whose}"))
    if problems:
        raise RecipeError(problems)
    return Objective(made)


def _moving(value: float | ScheduleSpec) -> float | Schedule:
    return value.build() if isinstance(value, ScheduleSpec) else value
