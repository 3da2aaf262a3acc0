"""A model is judged by what it answered, not by how it was made: every metric is a function of logits and labels.

Shapes: N test examples · C classes. All arithmetic is float64 numpy. A probability of exactly 0 (a logit of -inf, as a
tree model may give) is read as about 1e-307, so that NLL stays a number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from tutelage.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ECE_BINS = 15
ECE_METHOD = f"plug-in estimate, {ECE_BINS} equal-mass bins, confidence of the top class"
METHODS = {
    "accuracy": "share of test examples whose top class is the label",
    "macro_precision": "mean of the precisions of all classes that have test examples; 0 for a class never named",
    "macro_recall": "mean of the recalls of all classes that have test examples",
    "macro_f1": "mean of the F1 scores of all classes that have test examples",
    "nll": "mean negative log-likelihood of the label, nats, at temperature 1",
    "brier": "mean squared distance of the probabilities from the label's, summed over classes: 0 best, 2 worst",
    "ece": ECE_METHOD,
    "agreement": "share of test examples where student and teacher name the same class",
    "divergence": "mean KL(teacher ‖ student) at temperature 1, nats",
    "copied_errors": "of the teacher's errors, the share that the student repeats with the same wrong class",
}
_NEGLIGIBLE = 707.0  # exp(-707) is the smallest probability that float64 still holds with full precision


def as_logits(logits: ArrayLike, rows: int | None = None) -> Floats:
    """Logits as a finite float64 (N, C) array.

    Raises:
        InputError: not two-dimensional, empty, of another length than `rows`, or holding NaN or +inf.
    """
    array = np.array(logits, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or rows not in (None, array.shape[0]):
        raise InputError("logits have the wrong shape", given=array.shape, expected=f"({rows or 'N'}, C), not empty")
    empty = np.isneginf(array)
    if np.isnan(array).any() or np.isposinf(array).any() or empty.all(axis=1).any():
        raise InputError(
            "logits hold a number that cannot be judged",
            given=f"{int(np.isnan(array).sum())} NaN, {int(np.isposinf(array).sum())} +inf",
            expected="finite logits, or -inf for an impossible class",
            fix="look at the model's inputs and weights for NaN",
        )
    if empty.any():
        floor = np.where(empty, np.inf, array).min(axis=1, keepdims=True) - _NEGLIGIBLE
        array = np.where(empty, floor, array)
    return array


def as_answers(name: str, logits: ArrayLike, rows: int, classes: int) -> Floats:
    """The logits of one model as `as_logits` returns them, (rows, classes).

    Raises:
        InputError: as `as_logits`, or of another width.
    """
    array = as_logits(logits, rows)
    if array.shape[1] != classes:
        raise InputError(
            f"`{name}` answers other classes", given=f"{array.shape[1]} logits", expected=f"{classes} logits"
        )
    return array


def as_labels(labels: ArrayLike, classes: int) -> Ints:
    """Labels as an int64 (N,) array within [0, classes).

    Raises:
        InputError: not one-dimensional integers in range.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or array.size == 0:
        raise InputError("labels must be one row of class numbers", given=f"{array.dtype} {array.shape}")
    if int(array.min()) < 0 or int(array.max()) >= classes:
        raise InputError(
            "a label is not a class number",
            given=f"{int(array.min())} … {int(array.max())}",
            expected=f"0 … {classes - 1}",
        )
    return array.astype(np.int64)


def predictions(logits: Floats) -> Ints:
    """The class of the largest logit, (N,); the first one where several are equal."""
    return np.asarray(np.argmax(logits, axis=1), dtype=np.int64)


def log_probabilities(logits: Floats) -> Floats:
    """Logarithm of the softmax, (N, C)."""
    # By hand, since a report asks for it thousands of times, and scipy's logsumexp takes three times as long.
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def accuracy(logits: Floats, labels: Ints) -> float:
    """Share of examples whose top class is the label."""
    return float(np.mean(predictions(logits) == labels))


def confusion(logits: Floats, labels: Ints) -> Ints:
    """Counts, (C, C): rows are true classes, columns are predicted ones."""
    classes = logits.shape[1]
    flat = labels * classes + predictions(logits)
    counts = np.bincount(flat, minlength=classes * classes).astype(np.int64)
    return np.asarray(counts.reshape(classes, classes))


def recalls(counts: Ints) -> Floats:
    """Recall of every class, (C,), from a confusion matrix; NaN where the test part has no example of the class."""
    return _shares(np.diag(counts), counts.sum(axis=1), counts)


def precisions(counts: Ints) -> Floats:
    """Precision of every class, (C,): 0 for a class that was never named; NaN as for `recalls`."""
    return _shares(np.diag(counts), counts.sum(axis=0), counts)


def f1s(counts: Ints) -> Floats:
    """F1 of every class, (C,): 0 for a class that was never named; NaN as for `recalls`."""
    return _shares(2 * np.diag(counts), counts.sum(axis=1) + counts.sum(axis=0), counts)


def _shares(part: Ints, whole: Ints, counts: Ints) -> Floats:
    return np.where(counts.sum(axis=1) > 0, part / np.maximum(whole, 1), np.nan)


def macro_precision(counts: Ints) -> float:
    """Mean precision over the classes that have test examples."""
    return float(np.nanmean(precisions(counts)))


def macro_recall(counts: Ints) -> float:
    """Mean recall over the classes that have test examples (balanced accuracy)."""
    return float(np.nanmean(recalls(counts)))


def macro_f1(counts: Ints) -> float:
    """Mean F1 over the classes that have test examples."""
    return float(np.nanmean(f1s(counts)))


def nll(logits: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-log_probabilities(logits)[np.arange(labels.size), labels].mean())


def brier(logits: Floats, labels: Ints) -> float:
    """Brier's score: mean over examples of Σ_c (p_c − [c is the label])², from 0 to 2 (twice the binary half-score)."""
    away = np.exp(log_probabilities(logits))
    away[np.arange(labels.size), labels] -= 1.0
    return float(np.square(away).sum(axis=1).mean())


def top_log_odds(logits: Floats) -> Floats:
    """log(p / (1 − p)) of the top class, (N,); +inf with a single class.

    It ranks examples as their confidence p does, and still tells them apart where p itself rounds to 1.
    """
    rows, top = np.arange(logits.shape[0]), predictions(logits)
    rest = logits.copy()
    rest[rows, top] = -np.inf
    return np.asarray(logits[rows, top] - logsumexp(rest, axis=1), dtype=np.float64)


def ece(logits: Floats, labels: Ints, bins: int = ECE_BINS) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over bins of equal mass.

    The plug-in estimate, which is a little too high for a small test part. Examples of the very same confidence share
    their accuracy before they are cut into bins, so the order of the examples cannot matter.
    """
    log_p = log_probabilities(logits)
    confidence = np.exp(log_p.max(axis=1))
    parts, right = equal_mass(confidence, (predictions(logits) == labels).astype(np.float64), bins)
    gaps = [abs(float(np.sum(confidence[part]) - np.sum(right[part]))) for part in parts]
    return float(sum(gaps) / labels.size)


def equal_mass(order: Floats, values: Floats, bins: int) -> tuple[list[NDArray[np.int64]], Floats]:
    """Rows cut into bins of equal size from the least `order` to the greatest, and `values` with ties shared.

    Rows of the very same order share the mean of their values, so that it cannot matter which of them stands in which
    bin.

    Args:
        order: (N,).
        values: (N,) or (N, K).
        bins: fewer are made of fewer rows.
    """
    _, group = np.unique(order, return_inverse=True)
    wide = values.reshape(values.shape[0], -1)
    sums = np.stack([np.bincount(group, weights=column) for column in wide.T], axis=1)
    shared = (sums / np.bincount(group)[:, None])[group].reshape(values.shape)
    parts = np.array_split(np.argsort(order, kind="stable"), min(bins, order.size))
    return list(parts), np.asarray(shared, dtype=np.float64)


def agreement(student_logits: Floats, teacher_logits: Floats) -> float:
    """Share of examples where student and teacher name the same class, right or wrong."""
    return float(np.mean(predictions(student_logits) == predictions(teacher_logits)))


def divergence(student_logits: Floats, teacher_logits: Floats) -> float:
    """Mean KL(teacher ‖ student) at temperature 1, in nats."""
    teacher, student = log_probabilities(teacher_logits), log_probabilities(student_logits)
    return float((np.exp(teacher) * (teacher - student)).sum(axis=1).mean())


def copied_errors(student_logits: Floats, teacher_logits: Floats, labels: Ints) -> float | None:
    """Of the examples the teacher gets wrong, the share where the student gives the teacher's wrong answer.

    None where the teacher makes no error.
    """
    teacher = predictions(teacher_logits)
    wrong = teacher != labels
    return float(np.mean(predictions(student_logits)[wrong] == teacher[wrong])) if wrong.any() else None


def measure(logits: ArrayLike, labels: ArrayLike, teacher_logits: ArrayLike) -> dict[str, float]:
    """Every metric of this module by name; shares are fractions of 1, NLL and divergence are in nats."""
    teacher = as_logits(teacher_logits)
    truth = as_labels(labels, teacher.shape[1])
    answers = as_logits(logits, truth.size)
    if answers.shape != teacher.shape:
        raise InputError(
            "student and teacher answered different questions", given=answers.shape, expected=str(teacher.shape)
        )
    counts = confusion(answers, truth)
    found = {
        "accuracy": accuracy(answers, truth),
        "macro_precision": macro_precision(counts),
        "macro_recall": macro_recall(counts),
        "macro_f1": macro_f1(counts),
        "nll": nll(answers, truth),
        "brier": brier(answers, truth),
        "ece": ece(answers, truth),
        "agreement": agreement(answers, teacher),
        "divergence": divergence(answers, teacher),
    }
    copied = copied_errors(answers, teacher, truth)
    return found if copied is None else {**found, "copied_errors": copied}
