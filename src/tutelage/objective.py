"""A method is a sentence: losses, how much each weighs, at what temperature, and when.

A term's needs are the names of its loss's positional parameters (`student_logits`, `teacher_feature`, `labels`, …):
nothing is declared twice, and a function from anywhere can be a term. `NEEDS` lists the words understood. A term whose
loss reads features also says at which layers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.schedules import Schedule, as_schedule, is_constant
from tutelage.taps import feature_at
from tutelage.types import Batch, Logits, Outputs, Step
from tutelage.words import CONNECTORS, GRADIENTS, NEEDS

__all__ = [
    "CONNECTORS",
    "GRADIENTS",
    "NEEDS",
    "Attacker",
    "Objective",
    "Place",
    "Term",
    "matched_key",
    "read_view",
    "title_of",
]

Loss = Callable[..., Tensor]
# (student, inputs, target, teacher's logits, generator) -> attacked inputs, a constant; see `tutelage.attacks`.
Attacker = Callable[[nn.Module, Tensor, Tensor, Logits | None, torch.Generator], Tensor]
At = str | tuple[str, str] | Sequence[str | tuple[str, str]]


class Place(NamedTuple):
    """Where a loss on features listens: a layer of each side, by path or by a pattern that one layer answers to."""

    student: str
    teacher: str


@final
@dataclass(frozen=True, eq=False)
class Term:
    """One loss with its weight, its temperature and its fixed options.

    Args:
        loss: a function whose positional parameters are named from `NEEDS`, returning a scalar.
        weight: a number or a schedule; where it is exactly 0 the loss is not computed.
        temperature: a number or a schedule > 0, for losses that have a keyword of that name; None keeps their default.
        name: what reports call it; the loss's name by default.
        options: further keywords of the loss.
        at: for losses that read features, the layers where: a pair (student's layer, teacher's layer), or a text where
            both are called the same, or a list of these.
        connector: what brings the student's features into the teacher's shape, a key of `CONNECTORS`; it learns with
            the student and is not exported.
        gradient: for losses that read gradients, of which number of each answer: a key of `GRADIENTS`.
        attack: for losses that read answers on attacked inputs: what attacks, such as `attacks.Attack(eps=8 / 255)`.

    Raises:
        InputError: the loss reads something unknown, does not take the temperature or an option, or its places are
            missing or too many.
    """

    loss: Loss
    weight: float | Schedule = 1.0
    temperature: float | Schedule | None = None
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    at: At = ()
    connector: str = "auto"
    gradient: str = "label"
    attack: Attacker | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        title = self.name or title_of(self.loss)
        parameters = inspect.signature(self.loss).parameters.values()
        reads = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        takes = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "mask"}
        weight = as_schedule(self.weight)
        temperature = None if self.temperature is None else as_schedule(self.temperature)
        for unknown in sorted(set(reads) - set(NEEDS)):
            raise InputError(
                f"the loss `{title}` reads `{unknown}`, which no step provides",
                expected="positional parameters named " + ", ".join(NEEDS),
                fix="rename the parameter, or make it keyword-only and pass it as an option",
            )
        for unknown in sorted(set(self.options) - takes):
            raise InputError(
                f"the loss `{title}` has no option `{unknown}`",
                expected="one of " + (", ".join(sorted(takes)) or "none"),
            )
        if "temperature" in self.options:
            raise InputError(
                f"the temperature of `{title}` is not an option", fix="give it to the term: Term(loss, temperature=…)"
            )
        if temperature is not None and "temperature" not in takes:
            raise InputError(f"the loss `{title}` has no temperature", given=temperature.name, fix="leave it out")
        if temperature is not None and temperature.least <= 0:
            raise InputError(
                f"the temperature of `{title}` must stay above 0", given=temperature.name, expected="a number > 0"
            )
        set_(self, "name", title)
        set_(self, "weight", weight)
        set_(self, "temperature", temperature)
        set_(self, "options", dict(self.options))
        set_(self, "needs", reads)
        set_(self, "places", _places(title, reads, self.at, self.connector))
        _check_around(title, reads, self.gradient, self.attack)

    needs: tuple[str, ...] = field(init=False, default=())
    places: tuple[Place, ...] = field(init=False, default=())

    @property
    def reads_teacher(self) -> bool:
        """Whether it reads what a teacher says."""
        return any(need.startswith("teacher_") for need in self.needs)

    @property
    def matches(self) -> bool:
        """Whether the student's features go through connectors first."""
        return any(need.startswith("matched_") for need in self.needs)

    @property
    def plain(self) -> bool:
        """Whether it reads nothing but logits and targets, as they are."""
        return set(self.needs) <= {"student_logits", "teacher_logits", "target", "labels"}

    def slopes(self, whose: str) -> tuple[str, ...]:
        """The gradients that it reads of "student" or "teacher": `layer@number`, `@number` at the input."""
        layers = [getattr(place, whose) for place in self.places] if self.reads(f"{whose}_feature_gradient") else []
        found = [*([""] if self.reads(f"{whose}_input_gradient") else []), *layers]
        return tuple(f"{layer}@{self.gradient}" for layer in found)

    def reads(self, word: str) -> bool:
        """Whether it reads this, one of it or several."""
        return any(need in (word, word + "s") for need in self.needs)

    @property
    def temperatures(self) -> tuple[float, float] | None:
        """The least and the greatest temperature at which it reads logits; None where it has no temperature."""
        if isinstance(self.temperature, Schedule):
            return self.temperature.least, self.temperature.greatest
        default = inspect.signature(self.loss).parameters.get("temperature")
        return None if default is None else (float(default.default), float(default.default))

    @property
    def moves(self) -> bool:
        """Whether its weight or temperature depends on progress."""
        schedules = (self.weight, self.temperature)
        return any(isinstance(schedule, Schedule) and not is_constant(schedule) for schedule in schedules)


@final
class Objective:
    """Terms, and how they add up: `total = Σ weight · loss`.

    Args:
        terms: at least one; two of the same name are told apart by a number.

    Raises:
        InputError: there is no term.
    """

    def __init__(self, terms: Sequence[Term | Loss]) -> None:
        if not terms:
            raise InputError("an objective needs at least one term", fix="for instance [Term(cross_entropy)]")
        self.terms = tuple(term if isinstance(term, Term) else Term(term) for term in terms)
        names = [str(term.name) for term in self.terms]
        self.names = tuple(_distinct(names))
        self.needs = frozenset(need for term in self.terms for need in term.needs)
        self.moves = any(term.moves for term in self.terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says."""
        return any(term.reads_teacher for term in self.terms)

    @property
    def student_places(self) -> tuple[str, ...]:
        """The student's layers that the terms listen to."""
        return tuple(dict.fromkeys(place.student for term in self.terms for place in term.places))

    @property
    def teacher_places(self) -> tuple[str, ...]:
        """The teacher's layers that the terms listen to, and its gradients that they read."""
        layers = [place.teacher for t in self.terms if t.reads("teacher_feature") for place in t.places]
        return tuple(dict.fromkeys([*layers, *(slope for t in self.terms for slope in t.slopes("teacher"))]))

    def student_slopes(self, progress: float | None = None) -> tuple[str, ...]:
        """The student's gradients that the terms read, ever or at this point."""
        return tuple(dict.fromkeys(slope for t in self._counting(progress) for slope in t.slopes("student")))

    def attacks(self, progress: float) -> dict[Attacker, bool]:
        """What attacks the student at this point, and whether the teacher is asked about its inputs too."""
        found: dict[Attacker, bool] = {}
        for term in self._counting(progress):
            if term.attack is not None:
                found[term.attack] = found.get(term.attack, False) or "teacher_adversarial_logits" in term.needs
        return found

    def _counting(self, progress: float | None) -> list[Term]:
        """The terms whose weight is not 0 just now: what only the others read is not computed."""
        return [t for t in self.terms if progress is None or not isinstance(t.weight, Schedule) or t.weight(progress)]

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch, *, progress: float = 0.0) -> Step:
        """Add up one batch.

        Args:
            student: the student's outputs, with their graph.
            teacher: the teacher's outputs on the same views, or None where no term reads them.
            batch: where the targets are.
            progress: 0 at the first step of training, 1 at the end.

        Returns:
            The total with its graph, and each term's value before weighting; a term of weight 0 is left out.

        Raises:
            InputError: a term needs what is not there.
        """
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for number, (name, term) in enumerate(zip(self.names, self.terms, strict=True)):
            weight = term.weight(progress) if isinstance(term.weight, Schedule) else term.weight
            if weight == 0.0:
                continue
            keywords = dict(term.options)
            if isinstance(term.temperature, Schedule):
                keywords["temperature"] = term.temperature(progress)
            read = [_read(need, term, number, student, teacher, batch) for need in term.needs]
            value = term.loss(*read, **keywords)
            parts[name] = value.detach()
            part = value if weight == 1.0 else value * weight
            total = part if total is None else total + part
        if total is None:
            # Every weight is 0 just now: a zero that still has a graph keeps any training loop working.
            logits = student.logits
            assert isinstance(logits, Tensor)
            total = torch.zeros((), device=logits.device) * logits.sum()
        return Step(total, parts)


def title_of(loss: Loss) -> str:
    """What to call a loss: its name, or that of the function that a partial wraps, or of its type."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with numbers behind those that come twice, none of them taken already."""
    found: list[str] = []
    for name in names:
        number, free = 1, name if names.count(name) == 1 else f"{name}-1"
        while free in found or (free != name and free in names):
            number += 1
            free = f"{name}-{number}"
        found.append(free)
    return found


def read_view(batch: Batch, name: str) -> Tensor:
    """One of a batch's input views.

    Raises:
        InputError: it has none of that name.
    """
    if name not in batch.inputs:
        raise InputError(f"the batch has no view `{name}`", given=", ".join(batch.inputs) or "no views", fix="name one")
    return batch.inputs[name]


def matched_key(number: int, pair: int) -> str:
    """What the connector of a term's place is called: the number of the term, and of the place within it."""
    return f"{number}-{pair}"


def _places(title: str, reads: Sequence[str], at: At, connector: str) -> tuple[Place, ...]:
    """The places of a term, checked against what its loss reads."""
    endings = ("_features", "_feature_gradients"), ("_feature", "_feature_gradient")
    several, one = (any(need.endswith(ending) for need in reads) for ending in endings)
    # A tuple of two texts is one place; several places stand in a list.
    pair = isinstance(at, tuple) and len(at) == 2 and all(isinstance(layer, str) for layer in at)
    given = cast(Sequence[str | tuple[str, str]], [at] if isinstance(at, str) or pair else at)
    places = tuple(Place(item, item) if isinstance(item, str) else Place(*item) for item in given)
    if connector not in CONNECTORS:
        raise InputError(f"no connector `{connector}`", expected="one of " + ", ".join(CONNECTORS))
    if not (several or one):
        if places:
            raise InputError(f"the loss `{title}` reads no features", given=f"places {places}", fix="leave `at` out")
        return ()
    if not places:
        raise InputError(
            f"the loss `{title}` reads features, but the term does not say where",
            fix="give `at` with a layer of the student and one of the teacher, such as "
            "at: {student: net.stages.1, teacher: net.stages.2}",
        )
    if one and len(places) > 1:
        raise InputError(
            f"the loss `{title}` reads one place", given=f"{len(places)} places", fix="write one term for each place"
        )
    return places


def _check_around(title: str, reads: Sequence[str], gradient: str, attack: Attacker | None) -> None:
    """That a term says of which number gradients are meant, and who attacks, where its loss reads that."""
    if gradient not in GRADIENTS:
        raise InputError(f"no gradient of `{gradient}`", expected="one of " + ", ".join(GRADIENTS))
    reads_attacked = any(need.endswith("adversarial_logits") for need in reads)
    if reads_attacked and attack is None:
        raise InputError(
            f"the loss `{title}` reads answers to attacked inputs, but the term does not say who attacks",
            fix="give `attack`, for instance attack=tutelage.attacks.Attack(eps=8 / 255)",
        )
    if attack is not None and not reads_attacked:
        raise InputError(f"the loss `{title}` reads no answers to attacked inputs", fix="leave `attack` out")


def _read(need: str, term: Term, number: int, student: Outputs, teacher: Outputs | None, batch: Batch) -> object:
    places = term.places
    if need == "adversarial_logits":
        return student.attacked[term.attack]
    if need == "student_logits":
        return student.logits
    if need.startswith("teacher_"):
        if teacher is None:
            raise InputError(
                "a term reads what the teacher says, but there is no teacher", fix="pass one, or drop the term"
            )
        if need == "teacher_logits":
            return teacher.logits
        if need == "teacher_adversarial_logits":
            return teacher.attacked[term.attack]
        if "gradient" in need:
            slopes = [feature_at(teacher.features, slope, "the teacher") for slope in term.slopes("teacher")]
            return slopes if need.endswith("s") else slopes[0]
        if need == "teacher_members":
            if teacher.members is None:
                raise InputError(
                    "a term reads the members of an ensemble, but the teacher answers as one",
                    expected="a live ensemble that asks all of its members",
                    fix="combine several teachers by `mean_probabilities`, or keep stores of the members",
                )
            return teacher.members
        found = [feature_at(teacher.features, place.teacher, "the teacher") for place in places]
        return found if need == "teacher_features" else found[0]
    if need == "log_variance":
        return student.matched[f"{matched_key(number, 0)}-variance"]
    if need.startswith("matched_"):
        found = [student.matched[matched_key(number, pair)] for pair in range(len(places))]
        return found if need == "matched_features" else found[0]
    if need.startswith("student_") and "gradient" in need:
        slopes = [feature_at(student.features, slope, "the student") for slope in term.slopes("student")]
        return slopes if need.endswith("s") else slopes[0]
    if need.startswith("student_"):
        found = [feature_at(student.features, place.student, "the student") for place in places]
        return found if need == "student_features" else found[0]
    if need == "labels" and batch.target.ndim > 1:
        raise InputError(
            "a term reads labels, but mixed examples have none",
            given=f"targets of shape {tuple(batch.target.shape)}",
            fix="turn mixup and cutmix off, or use a loss that reads `target`",
        )
    return batch.target
