"""A student that also tells what its layers put out, as they are, matched, and what companions make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tutelage.companions.building import BUILDERS
from tutelage.companions.connectors import Connector
from tutelage.companions.protocol import Around, Companion, Seen, Value
from tutelage.errors import InputError, ModelError
from tutelage.objective import Objective, Term, companion_key, matched_key
from tutelage.sources import Source
from tutelage.taps import Taps, feature_at
from tutelage.types import Outputs

__all__ = ["Listening", "connect", "outputs_of"]


class Listening(nn.Module):
    """A student with what its terms add to it.

    Args:
        student: maps (B, …) to logits (B, C).
        objective: what listens.
        around: a batch to learn shapes from, on the student's device, and what else is known.

    Raises:
        ModelError: a layer that the student has not, or shapes that cannot be matched.
        InputError: a companion needs what is not known.
    """

    def __init__(self, student: nn.Module, objective: Objective, around: Around) -> None:
        super().__init__()
        self.student = student
        self._taps = Taps(student, (*objective.student_places, *objective.student_slopes()))
        probed = self._probed(around.inputs)
        self._routes: list[tuple[str, str]] = []  # student's layer -> key of the connector
        self._hearing: list[tuple[Companion, Source | None]] = []  # whom each companion's term listens to
        self.connectors = nn.ModuleDict()
        self.companions = nn.ModuleDict()
        device = probed.logits.device if isinstance(probed.logits, Tensor) else None
        for number, term in enumerate(objective.terms):
            if term.matches:
                self._connect(number, term, probed.features, around.told(term.speaker))
            for word in term.companions:
                try:
                    made = BUILDERS[word](term, student, probed, around)
                except (ModelError, InputError) as error:
                    raise _of_term(term, error) from error
                self.companions[companion_key(number, word)] = made.to(device)
                self._hearing.append((made, term.speaker))
        self.connectors.to(device)

    @property
    def extras(self) -> nn.ModuleDict:
        """All that learns along, by the names it has in checkpoints."""
        return nn.ModuleDict({**self.connectors, **self.companions})

    def forward(self, x: Tensor, seen: Seen | None = None) -> tuple[Tensor, dict[str, Tensor], dict[str, Value]]:
        """Logits, features by layer, and what connectors and companions made of them; these last only if `seen`."""
        logits = self.student(x)
        features = self._taps.take()
        matched: dict[str, Value] = {
            key: self.connectors[key](feature_at(features, place, "the student")) for place, key in self._routes
        }
        for _, key in self._routes:
            variance = self.connectors[key].log_variance
            if isinstance(variance, Tensor):
                matched[f"{key}-variance"] = variance
        if seen is not None and self.companions:
            ours = Outputs(logits, features)
            matched |= {key: companion(ours, seen) for key, companion in self.companions.items()}
        return logits, features, matched

    def hear(self, teacher: Outputs | None, others: Mapping[Source, Sequence[Outputs]]) -> None:
        """Pass on to each companion what its term's source said, at the end of a step."""
        own = () if teacher is None else (teacher,)
        for companion, speaker in self._hearing:
            companion.hear(own if speaker is None else others.get(speaker, ()))

    def _connect(self, number: int, term: Term, features: Mapping[str, Tensor], answer: Outputs) -> None:
        for pair, place in enumerate(term.places):
            ours = feature_at(features, place.student, "the student")
            theirs = feature_at(answer.features, place.teacher, "the teacher")
            key = matched_key(number, pair)
            learns = "log_variance" in term.needs
            try:
                connector = Connector(tuple(ours.shape), tuple(theirs.shape), term.connector, variance=learns)
            except ModelError as error:
                raise _of_term(term, error, f" at {place.student} → {place.teacher}") from error
            self.connectors[key] = connector
            self._routes.append((place.student, key))

    def _probed(self, example: Tensor) -> Outputs:
        modes = [(module, module.training) for module in self.student.modules()]
        self.student.eval()
        with torch.no_grad():
            logits = self.student(example)
        for module, mode in modes:
            module.training = mode
        return Outputs(logits, self._taps.take())


def connect(student: nn.Module, objective: Objective, around: Around) -> nn.Module:
    """The student as an objective needs it: itself where nobody listens, else `Listening`."""
    return Listening(student, objective, around) if objective.listens else student


def outputs_of(said: object) -> Outputs:
    """What a student answered, whether somebody listens to its layers or not.

    Raises:
        ModelError: no logits.
    """
    # A wrapper of many devices hides what it wraps, so what comes out has to tell which it was.
    # A model of the caller's may answer with three tensors as well; these are no logits.
    listened = type(said) is tuple and len(said) == 3 and isinstance(said[1], Mapping)
    outputs = Outputs(*said) if listened else Outputs(said)  # type: ignore[arg-type, misc]
    if not isinstance(outputs.logits, Tensor):
        raise ModelError(
            "the student does not answer with logits", given=type(said).__name__, expected="a tensor (B, C)"
        )
    return outputs


def _of_term(term: Term, error: ModelError | InputError, where: str = "") -> ModelError | InputError:
    problem = error.problem
    return type(error)(
        f"term `{term.name}`{where}: {problem.what}",
        given=problem.given, expected=problem.expected, fix=problem.fix,
    )  # fmt: skip
