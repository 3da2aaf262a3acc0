"""Small trainable layers that bring a student's features into the shape of a teacher's.

They learn with the student, in its optimizer and its checkpoints, and are never exported: `student` itself keeps only
its own weights. Shapes are probed once, on a real batch.

    Listening(student) : x ─► student ─► logits
                                 └ taps ─► features ─► connectors ─► matched, in the teacher's shapes

Shapes:  B batch · D features · T tokens · C channels · H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses.vectors import pooled
from tutelage.objective import Objective, matched_key
from tutelage.taps import Taps, feature_at
from tutelage.types import Outputs

__all__ = ["Connector", "Listening", "connect", "outputs_of"]

_HEADS = 4
_VARIANCE = 5.0


class Connector(nn.Module):
    """Maps the student's feature to the teacher's shape: features by layers, height and width by pooling.

    Args:
        student: shape of the student's feature, (B, D), (B, T, D) or (B, C, H, W).
        teacher: shape of the teacher's, of the same kind.
        kind: a key of `objective.CONNECTORS`.
        variance: whether a variance for each of the teacher's channels learns along, from 5 on as VID's authors do.

    Raises:
        ModelError: the shapes are of different kinds, differ in tokens, or the kind does not suit them.
    """

    def __init__(
        self, student: tuple[int, ...], teacher: tuple[int, ...], kind: str = "auto", *, variance: bool = False
    ) -> None:
        super().__init__()
        maps = len(student) == 4
        self.size = (teacher[2], teacher[3]) if len(teacher) == 4 else None
        ours, theirs = (shape[1] if maps else shape[-1] for shape in (student, teacher))
        same_kind = len(student) == len(teacher) and len(student) in (2, 3, 4)
        if not same_kind or (not maps and student[1:-1] != teacher[1:-1]):
            raise ModelError(
                "no connector leads from one shape to the other",
                given=f"student {_shown(student)}, teacher {_shown(teacher)}",
                expected="both (B, D), both (B, T, D) with the same T, or both (B, C, H, W)",
                fix="listen to layers whose outputs are of the same kind",
            )
        if kind == "none" and student[1:] != teacher[1:]:
            raise ModelError(
                "the shapes differ, and `connector: none` was asked for",
                given=f"student {_shown(student)}, teacher {_shown(teacher)}", fix="use connector: linear",
            )  # fmt: skip
        if kind == "auto":
            kind = "none" if ours == theirs else "linear"
        self.layers = _layers(kind, ours, theirs, maps, len(student))
        self.log_variance = nn.Parameter(torch.full((theirs,), math.log(_VARIANCE))) if variance else None

    def forward(self, feature: Tensor) -> Tensor:
        if self.size is not None and tuple(feature.shape[2:]) != self.size:
            feature = pooled(feature, self.size)  # averages of windows; repeats what is there where there is too little
        matched: Tensor = self.layers(feature)
        return matched


class Listening(nn.Module):
    """A student that also tells what its layers put out, as they are and behind connectors.

    Args:
        student: maps (B, …) to logits (B, C).
        objective: what listens.
        example: (2 or more, …) inputs, on the student's device, to learn the shapes from.
        answer: the teacher's outputs for as many examples; None where no term matches features.

    Raises:
        ModelError: a layer that the student has not, or shapes that cannot be matched.
    """

    def __init__(self, student: nn.Module, objective: Objective, example: Tensor, answer: Outputs | None) -> None:
        super().__init__()
        self.student = student
        self._taps = Taps(student, (*objective.student_places, *objective.student_slopes()))
        features = self._probed(example)
        self._routes: list[tuple[str, str]] = []  # student's layer -> key of the connector
        self.connectors = nn.ModuleDict()
        for number, term in enumerate(objective.terms):
            for pair, place in enumerate(term.places if term.matches else ()):
                assert answer is not None
                ours = feature_at(features, place.student, "the student")
                theirs = feature_at(answer.features, place.teacher, "the teacher")
                key = matched_key(number, pair)
                try:
                    learns = "log_variance" in term.needs
                    connector = Connector(tuple(ours.shape), tuple(theirs.shape), term.connector, variance=learns)
                except ModelError as error:
                    raise ModelError(
                        f"term `{term.name}` at {place.student} → {place.teacher}: {error.problem.what}",
                        given=error.problem.given, expected=error.problem.expected, fix=error.problem.fix,
                    ) from error  # fmt: skip
                self.connectors[key] = connector.to(example.device)
                self._routes.append((place.student, key))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Logits, features by layer, and what connectors made of them."""
        logits = self.student(x)
        features = self._taps.take()
        matched = {key: self.connectors[key](feature_at(features, place, "the student")) for place, key in self._routes}
        for _, key in self._routes:
            variance = self.connectors[key].log_variance
            if isinstance(variance, Tensor):
                matched[f"{key}-variance"] = variance
        return logits, features, matched

    def _probed(self, example: Tensor) -> dict[str, Tensor]:
        modes = [(module, module.training) for module in self.student.modules()]
        self.student.eval()
        with torch.no_grad():
            self.student(example)
        for module, mode in modes:
            module.training = mode
        return self._taps.take()


def connect(student: nn.Module, objective: Objective, example: Tensor, answer: Outputs | None) -> nn.Module:
    """The student as an objective needs it: itself where nobody listens, else `Listening`."""
    return Listening(student, objective, example, answer) if objective.student_places else student


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


def _layers(kind: str, ours: int, theirs: int, maps: bool, ndim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        # No bias in the convolution would be FitNets' letter; with one it can also match a teacher's mean.
        return nn.Conv2d(ours, theirs, 1) if maps else nn.Linear(ours, theirs)
    if kind == "mlp":
        if maps:
            return nn.Sequential(nn.Conv2d(ours, theirs, 1), nn.ReLU(), nn.Conv2d(theirs, theirs, 1))
        return nn.Sequential(nn.Linear(ours, theirs), nn.ReLU(), nn.Linear(theirs, theirs))
    if ndim != 3:
        raise ModelError("a transformer block connects tokens (B, T, D)", given=f"{ndim} dimensions", fix="use mlp")
    heads = next(heads for heads in range(min(_HEADS, ours), 0, -1) if ours % heads == 0)
    block = nn.TransformerEncoderLayer(ours, heads, 2 * ours, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(block, nn.Linear(ours, theirs))


def _shown(shape: tuple[int, ...]) -> str:
    return "(B, " + ", ".join(map(str, shape[1:])) + ")"
