"""A method is a sentence: terms that add up. See `tutelage.terms` for what a term is."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.schedules import Past, Schedule
from tutelage.sources import FromArm, Pseudo, Source
from tutelage.taps import feature_at
from tutelage.tasks import each_task, of_task
from tutelage.terms import Attacker, Loss, Place, Term, companion_key, matched_key, title_of
from tutelage.types import Batch, Outputs, Step
from tutelage.words import COMPANIONS, CONNECTORS, GRADIENTS, NEEDS

__all__ = [
    "CONNECTORS",
    "GRADIENTS",
    "NEEDS",
    "Attacker",
    "Loss",
    "Objective",
    "Place",
    "Term",
    "companion_key",
    "matched_key",
    "read_view",
    "title_of",
]


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
        self.moves = "progress" in self.needs or any(term.moves for term in self.terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says."""
        return any(term.reads_teacher for term in self.terms)

    @property
    def distils(self) -> bool:
        """Whether any term reads what somebody says who is not the label: the teacher, or another source."""
        return any(term.listens_to_others for term in self.terms)

    @property
    def student_places(self) -> tuple[str, ...]:
        """The student's layers that the terms listen to."""
        return tuple(dict.fromkeys(place.student for term in self.terms for place in term.places))

    @property
    def teacher_places(self) -> tuple[str, ...]:
        """The teacher's layers that the terms listen to, and its gradients that they read."""
        return self.places_of(None)

    def places_of(self, source: Source | None) -> tuple[str, ...]:
        """The layers and gradients of a source that the terms read; None is the teacher."""
        terms = [term for term in self.terms if term.speaker == source]
        layers = [place.teacher for t in terms if t.reads_features_of_others for place in t.places]
        return tuple(dict.fromkeys([*layers, *(slope for t in terms for slope in t.slopes("teacher"))]))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Whom the terms listen to beside the teacher."""
        found = [term.speaker for term in self.terms if term.listens_to_others]
        return tuple(dict.fromkeys(source for source in found if source is not None))

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms whose finished students are listened to."""
        found = [source.arm for source in self.sources if isinstance(source, (FromArm, Pseudo))]
        return tuple(dict.fromkeys(arm for arm in found if arm is not None))

    @property
    def listens(self) -> bool:
        """Whether anything is added to the student while it learns: taps, connectors, companions."""
        return bool(self.student_places or any(term.companions for term in self.terms))

    def for_tasks(self, sizes: Mapping[str, int]) -> Objective:
        """The same for examples of several tasks: a term that names none counts for each; see `tasks.each_task`."""
        terms = each_task(self.terms, sizes)
        same = len(terms) == len(self.terms) and all(map(operator.is_, terms, self.terms))
        return self if same else Objective(terms)

    def student_slopes(self, progress: float | None = None) -> tuple[str, ...]:
        """The student's gradients that the terms read, ever or at this point."""
        return tuple(dict.fromkeys(slope for t in self._counting(progress) for slope in t.slopes("student")))

    def partners(self, progress: float) -> bool:
        """Whether the student is asked about partners of the same class at this point."""
        return any("partner_logits" in term.needs for term in self._counting(progress))

    def attacks(self, progress: float) -> dict[Attacker, bool]:
        """What attacks the student at this point, and whether the teacher is asked about its inputs too."""
        found: dict[Attacker, bool] = {}
        for term in self._counting(progress):
            if term.attack is not None:
                found[term.attack] = found.get(term.attack, False) or "teacher_adversarial_logits" in term.needs
        return found

    def _counting(self, progress: float | None) -> list[Term]:
        """The terms whose weight is not 0 just now: what only the others read is not computed."""
        if progress is None:
            return list(self.terms)
        # One that follows feedback may come to count at any time.
        return [t for t in self.terms if not isinstance(t.weight, Schedule) or t.weight.feedback or t.weight(progress)]

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        *,
        progress: float = 0.0,
        past: Past = (),
        others: Mapping[Source, Sequence[Outputs]] = MappingProxyType({}),
    ) -> Step:
        """Add up one batch.

        Args:
            student: the student's outputs, with their graph.
            teacher: the teacher's outputs on the same views, or None where no term reads them.
            batch: where the targets are.
            progress: 0 at the first step of training, 1 at the end.
            past: what validation said after every epoch so far, for schedules that follow it.
            others: what each source but the teacher says, one answer or several; a loss is averaged over these.

        Returns:
            The total with its graph, and each term's value before weighting; a term of weight 0 is left out.

        Raises:
            InputError: a term needs what is not there.
        """
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for number, (name, term) in enumerate(zip(self.names, self.terms, strict=True)):
            weight = term.weight(progress, past) if isinstance(term.weight, Schedule) else term.weight
            if weight == 0.0:
                continue
            keywords = dict(term.options)
            if isinstance(term.temperature, Schedule):
                keywords["temperature"] = term.temperature(progress, past)
            told = (teacher,) if term.speaker is None else others.get(term.speaker, ())
            if not told:
                raise InputError(
                    f"the term `{name}` listens to {term.source}, who says nothing",
                    fix="pass `others` to the Distiller, or train in a run, which asks them",
                )
            values = []
            for one in told:
                said = (student, one, batch) if term.task is None else of_task(term, student, one, batch)
                read = [_read(need, term, number, *said, progress) for need in term.needs]
                mask = _mask(name, term, one, batch)
                values.append(term.loss(*read, **keywords, **({} if mask is None else {"mask": mask})))
            value = values[0] if len(values) == 1 else torch.stack(values).mean()
            parts[name] = value.detach()
            part = value if weight == 1.0 else value * weight
            total = part if total is None else total + part
        if total is None:
            # Every weight is 0 just now: a zero that still has a graph keeps any training loop working.
            logits = student.logits
            assert isinstance(logits, Tensor)
            total = torch.zeros((), device=logits.device) * logits.sum()
        return Step(total, parts)


def _mask(name: str, term: Term, told: Outputs | None, batch: Batch) -> Tensor | None:
    """Which examples a term is about; None where about all."""
    labelled = batch.labelled if term.reads_labels else None
    counts = told.counts if told is not None and term.listens_to_others else None
    if labelled is None and counts is None:
        return None
    if not term.masks:
        raise InputError(
            f"the term `{name}` cannot leave out examples that have no {'label' if counts is None else 'answer'}",
            expected="a loss on logits with a `mask`", fix="choose another loss, or label all examples",
        )  # fmt: skip
    if labelled is None or counts is None:
        return labelled if counts is None else counts
    return labelled & counts


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


def _read(
    need: str, term: Term, number: int, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float
) -> object:
    places = term.places
    if need == "progress":
        return progress
    if need == "partner_logits":
        if student.partner is None:
            raise InputError(
                "a term reads the student's answers to other examples of the same class, but the batch has none",
                fix="give batches a view called `partner`, as runs do",
            )
        return student.partner
    if need in COMPANIONS:
        key = companion_key(number, need)
        if key not in student.matched:
            raise InputError(
                f"the term `{term.name}` reads `{need}`, but what learns along for it was never built",
                fix="pass example=batch when making the Distiller",
            )
        return student.matched[key]
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
        matched = [student.matched[matched_key(number, pair)] for pair in range(len(places))]
        return matched if need == "matched_features" else matched[0]
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
