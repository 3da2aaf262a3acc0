"""What every model scored on the questions that all of them were asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutelage.errors import InputError
from tutelage.evaluation import calibration, metrics, ranking
from tutelage.evaluation.judged import Judged, Metrics, ModelScore
from tutelage.evaluation.lineup import TEACHER


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """The examples that models were asked about: the test part, the validation part, a sample of the training part."""

    ids: metrics.Ints  # (N,) content ids of the test examples
    labels: metrics.Ints  # (N,)
    classes: int
    val_labels: ArrayLike | None = None  # (V,)
    train_labels: ArrayLike | None = None  # (T,)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One model's logits, checked, and the sums of what it answered as it came."""

    test: metrics.Floats  # (N, C)
    train: metrics.Floats | None  # (T, C)
    sums: Mapping[str, str]  # test, val, train -> sum


def read(name: str, model: Judged, questions: Questions) -> Answers:
    """Check one model's answers against the questions.

    Raises:
        InputError: they do not fit the labels or the classes, or came without labels.
    """
    sums = {"test": digest(questions.ids, questions.labels, model.logits)}
    if model.val_logits is not None and questions.val_labels is not None:
        sums["val"] = digest(questions.val_labels, model.val_logits)
    train = None
    if model.train_logits is not None:
        if questions.train_labels is None:
            raise InputError(f"`{name}` has training answers, but no labels came with them", fix="pass `train_labels`")
        truth = metrics.as_labels(questions.train_labels, questions.classes)
        train = metrics.as_answers(name, model.train_logits, truth.size, questions.classes)
        sums["train"] = digest(truth, model.train_logits)
    test = metrics.as_answers(name, model.logits, questions.labels.size, questions.classes)
    return Answers(test, train, sums)


def digest(*arrays: ArrayLike) -> str:
    """A sum of numbers in their order, whatever type they are kept in: whole ones as int64, others as float64."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        kind = "<i8" if np.issubdtype(array.dtype, np.integer) else "<f8"
        found.update(repr(array.shape).encode())
        found.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return found.hexdigest()


def score_models(
    judged: Mapping[str, Sequence[Judged]],
    answers: Mapping[str, Sequence[Answers]],
    questions: Questions,
    marks: Mapping[str, Sequence[ranking.Marks]],
) -> dict[str, list[ModelScore]]:
    """Every metric of every model and seed, beside the file that it belongs to.

    Args:
        judged: name of model or arm -> its models, the teacher among them.
        answers: likewise, what `read` made of them.
        questions: what they were asked.
        marks: likewise, precision, F1 and AUC of every class.
    """
    truth, teacher = questions.labels, answers[TEACHER][0].test
    found: dict[str, list[ModelScore]] = {name: [] for name in judged}
    for name, several in judged.items():
        for model, said, mark in zip(several, answers[name], marks[name], strict=True):
            temperature = calibration.temperature_of(name, model.val_logits, questions.val_labels, questions.classes)
            measured = metrics.measure(said.test, truth, teacher) | ranking.measure(said.test, truth, mark["auc"])
            measured |= calibration.measure(said.test, truth, temperature)
            found[name].append(_score(name, model, measured, said.sums))
    return found


def _score(name: str, model: Judged, measured: Metrics, sums: Mapping[str, str]) -> ModelScore:
    return ModelScore(
        name, model.seed, measured, model.parameters, model.file_bytes, model.sha256, model.kept_epoch,
        model.multiply_adds, sums,
    )  # fmt: skip
