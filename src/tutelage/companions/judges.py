"""Judges that learn to tell student from teacher while the student learns to be taken for the teacher.

student ─┬─ with its graph ──► judge held fixed ─► score, from which the student learns
         └─ detached ─┐
teacher ──────────────┴─────► judge ─────────────► scores, from which the judge learns
"""

from __future__ import annotations

from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.rows import averaged
from tutelage.errors import InputError
from tutelage.losses.targets import as_float, dense
from tutelage.objective import Place, Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["FeatureJudge", "LogitJudge"]

_LEAK = 0.2  # of the ReLUs: what is surely the student's must still be told how to change


class _Judge(nn.Module):
    """Three linear layers to one score a row; always in single precision, in which a sure judge still has a slope."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise InputError("the width of a judge is a number of units", given=f"width={width}", expected="1 or more")
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.LeakyReLU(_LEAK), nn.Linear(width, width), nn.LeakyReLU(_LEAK),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x).squeeze(-1)
        return scores

    def scores(self, student: Tensor, teacher: Tensor) -> list[Tensor]:
        """Scores (B,) of the student by this judge held fixed, of the student, and of the teacher; of rows (B, D)."""
        fixed = {name: value.detach() for name, value in self.named_parameters()}
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = as_float(student), as_float(teacher).detach()
            return [functional_call(self, fixed, (student,)), self(student.detach()), self(teacher)]


@final
class LogitJudge(Companion):
    """Judges logits (B, C), beside their labels if it is told these; see `losses.adversarial`.

    Args:
        classes: C.
        target: how many numbers a target has that the judge is told; 0 tells it none.
        width: of its two hidden layers.
    """

    def __init__(self, classes: int, target: int, width: int) -> None:
        super().__init__()
        self.target = target
        self.judge = _Judge(classes + target, width)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        told, labels = term.companion["labels"], around.batch.target
        if not isinstance(told, bool):
            raise InputError("a judge is told labels or not", given=f"labels={told}", expected="true or false")
        # Here, not in the middle of a run.
        classes = dense(around.told(term.speaker).logits, "a judge").shape[-1]
        return cls(classes, (classes if labels.ndim == 1 else labels.shape[-1]) if told else 0, term.companion["width"])

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        assert isinstance(ours.logits, Tensor)
        student, teacher = as_float(ours.logits), dense(seen.told.logits, "a judge")
        if self.target:
            target = seen.batch.target
            beside = (F.one_hot(target, self.target) if target.ndim == 1 else target).to(student.dtype)
            if seen.batch.labelled is not None:
                # The judge is told no label that the student may not know either.
                beside = beside * seen.batch.labelled.unsqueeze(-1)
            student, teacher = torch.cat([student, beside], -1), torch.cat([teacher.to(student.dtype), beside], -1)
        return self.judge.scores(student, teacher)


@final
class FeatureJudge(Companion):
    """Judges what a layer puts out, averaged over its places; see `losses.adversarial_feature`.

    Args:
        place: where both listen.
        student: width of the student's feature.
        teacher: width of the teacher's; where they differ, a linear layer that learns with the student lies between.
        width: of the judge's two hidden layers.
    """

    def __init__(self, place: Place, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.place = place
        self.matched = nn.Identity() if student == teacher else nn.Linear(student, teacher)
        self.judge = _Judge(teacher, width)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        (place,) = term.places
        told = around.told(term.speaker)
        features = (
            feature_at(ours.features, place.student, "the student"),
            feature_at(told.features, place.teacher, "the teacher"),
        )
        mine, theirs = (averaged(one).shape[-1] for one in features)
        return cls(place, mine, theirs, term.companion["width"])

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        student = averaged(feature_at(ours.features, self.place.student, "the student"))
        teacher = averaged(feature_at(seen.told.features, self.place.teacher, "the teacher"))
        return self.judge.scores(self.matched(student), teacher)
