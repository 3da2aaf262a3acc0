"""A term of an objective: one loss, how much it weighs, at what temperature, when, where, and whom it listens to.

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

from tutelage.errors import InputError, nearest
from tutelage.schedules import Schedule, as_schedule, is_constant
from tutelage.sources import Peers, Pseudo, Source, as_source
from tutelage.types import Logits
from tutelage.words import COMPANIONS, CONNECTORS, GRADIENTS, MAPS, NEEDS

__all__ = ["Attacker", "Loss", "Place", "Term", "companion_key", "matched_key", "title_of"]

Loss = Callable[..., Tensor]
_OF_TEACHER = frozenset(word for word, companion in COMPANIONS.items() if companion.teacher)
# (student, inputs, target, teacher's logits, generator) -> attacked inputs, a constant; see `tutelage.attacks`.
Attacker = Callable[[nn.Module, Tensor, Tensor, Logits | None, torch.Generator], Tensor]


class Place(NamedTuple):
    """Where a loss on features listens: a layer of each side, by path or by a pattern that one layer answers to.

    With a `map`, a key of `words.MAPS`, patterns that several layers answer to; `layermaps` makes pairs of them.
    """

    student: str
    teacher: str
    map: str = ""


At = str | tuple[str, str] | Place | Sequence[str | tuple[str, str] | Place]


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
        source: who is listened to where the loss reads a teacher: "teacher", "ema", "peers", the name of another arm,
            or one of `tutelage.sources`.
        companion: settings of what learns along for this loss, beside their defaults in `words.COMPANIONS`.
        task: of which task's logits and labels it is, where examples have several; by default of each, added up.
        columns: where that task's logits begin and end among all; filled in by `Objective.for_tasks`.

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
    source: Source | str | None = None
    companion: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    columns: tuple[int, int] | None = None

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
        needed = [p.name for p in parameters if p.name in takes - {"temperature"} and p.default is p.empty]
        for name in (name for name in needed if name not in self.options):
            raise InputError(f"the loss `{title}` needs the option `{name}`, which has no default", fix="name it")
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
        set_(self, "source", as_source(self.source or "teacher"))
        set_(self, "masks", "mask" in inspect.signature(self.loss).parameters and _by_rows(reads))
        set_(self, "companions", tuple(need for need in reads if need in COMPANIONS))
        set_(self, "companion", _settings(title, reads, self.companion))
        _check_around(title, reads, self.gradient, self.attack)
        _check_source(title, reads, self.source)

    needs: tuple[str, ...] = field(init=False, default=())
    places: tuple[Place, ...] = field(init=False, default=())
    companions: tuple[str, ...] = field(init=False, default=())
    masks: bool = field(init=False, default=False)  # whether its loss can leave out some of the examples

    @property
    def listens_to_others(self) -> bool:
        """Whether it reads what somebody else says: the teacher, or another source."""
        return any(need.startswith("teacher_") or need in _OF_TEACHER for need in self.needs)

    @property
    def speaker(self) -> Source | None:
        """Whom it listens to; None is the teacher."""
        return self.source if isinstance(self.source, Source) else None

    @property
    def reads_teacher(self) -> bool:
        """Whether it reads what the teacher says."""
        return self.speaker is None and self.listens_to_others

    @property
    def reads_features_of_others(self) -> bool:
        """Whether it reads what layers of its source put out."""
        return self.reads("teacher_feature") or any(
            COMPANIONS[word].teacher and COMPANIONS[word].places != "none" for word in self.companions
        )

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
    def reads_labels(self) -> bool:
        """Whether it reads what an example without a label has not."""
        return "labels" in self.needs or "target" in self.needs

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


def title_of(loss: Loss) -> str:
    """What to call a loss: its name, or that of the function that a partial wraps, or of its type."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def companion_key(number: int, word: str) -> str:
    """What the companion of a term is called: the number of the term, and the word that its loss reads."""
    return f"{number}+{word}"


def matched_key(number: int, pair: int) -> str:
    """What the connector of a term's place is called: the number of the term, and of the place within it."""
    return f"{number}-{pair}"


def _places(title: str, reads: Sequence[str], at: At, connector: str) -> tuple[Place, ...]:
    """The places of a term, checked against what its loss reads."""
    endings = ("_features", "_feature_gradients"), ("_feature", "_feature_gradient")
    kinds = [COMPANIONS[need].places for need in reads if need in COMPANIONS]
    several = any(need.endswith(endings[0]) for need in reads) or "several" in kinds
    one = any(need.endswith(endings[1]) for need in reads) or "one" in kinds
    # A tuple of two texts is one place; several places stand in a list.
    pair = isinstance(at, Place) or (isinstance(at, tuple) and len(at) == 2 and all(isinstance(one, str) for one in at))
    given = cast(Sequence[str | tuple[str, str] | Place], [at] if isinstance(at, str) or pair else at)
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
    for place in places:
        if place.map and place.map not in MAPS:
            raise InputError(
                f"no layer map `{place.map}`", expected="one of " + ", ".join(MAPS), fix=nearest(place.map, MAPS)
            )
    if one and (len(places) > 1 or places[0].map):
        raise InputError(
            f"the loss `{title}` reads one place",
            given=f"map: {places[0].map}" if places[0].map else f"{len(places)} places",
            fix="write one term for each place",
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


def _by_rows(reads: Sequence[str]) -> bool:
    """Whether a mask of the loss has one place for every example, and none for tokens or places of a map."""
    return not any("feature" in need or need in COMPANIONS for need in reads)


def _settings(title: str, reads: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the companions of a loss are built with, defaults filled in."""
    defaults = {key: value for need in reads if need in COMPANIONS for key, value in COMPANIONS[need].settings.items()}
    for unknown in sorted(set(given) - set(defaults)):
        raise InputError(
            f"what learns along for `{title}` has no setting `{unknown}`",
            expected="one of " + (", ".join(sorted(defaults)) or "none"),
        )
    return {**defaults, **given}


def _check_source(title: str, reads: Sequence[str], source: Source | str | None) -> None:
    """That a term listens only to those who can tell what its loss reads."""
    if not isinstance(source, Source):
        return
    asked = [need for need in reads if need.startswith("teacher_") or need in _OF_TEACHER]
    if not asked:
        raise InputError(f"the loss `{title}` listens to nobody", given=f"from: {source}", fix="leave `from` out")
    beyond = [need for need in asked if need != "teacher_logits"]
    # What others say beside logits: features of one own's average, or of a student that is finished.
    logits_only = isinstance(source, (Peers, Pseudo))
    layers = () if logits_only else ("teacher_feature", "teacher_features")
    unknown = [need for need in beyond if need not in layers]
    if unknown:
        raise InputError(
            f"the loss `{title}` reads `{unknown[0]}`, which {source} cannot tell",
            expected="teacher_logits" if logits_only else "teacher_logits and the features of layers",
            fix="listen to the teacher, or use a loss on logits",
        )
