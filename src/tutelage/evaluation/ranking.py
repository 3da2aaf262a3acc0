"""How well a model orders: the label among the classes of one example, and the examples of one class among all.

Shapes: N test examples · C classes. Ranks need no threshold and no calibration. AUC is that of Hanley & McNeil (1982):
the chance that an example of the class scores above one of another class, where equal scores count half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from tutelage.errors import InputError
from tutelage.evaluation.curves import clean
from tutelage.evaluation.metrics import (
    Floats,
    Ints,
    confusion,
    f1s,
    log_probabilities,
    precisions,
    predictions,
    top_log_odds,
)
from tutelage.evaluation.resampling import bootstrap, ratios
from tutelage.evaluation.significance import Estimate

Marks = Mapping[str, Floats]  # precision, f1, auc -> (C,)
TOP = 5
LEAST_CLASSES_FOR_TOP = 10  # among fewer classes, being in the first five says little
FIRST = 10
LEAST_CLASSES_FOR_PLACES = 100  # so many classes are a list that somebody looks through from its top
METHODS = {
    "top5_accuracy": f"share of test examples whose label is among the {TOP} largest logits; "
    "of equal logits the first class counts as larger",
    f"hit_rate_{FIRST}": f"share of test examples whose label is among the {FIRST} largest logits",
    f"ndcg_{FIRST}": f"mean of 1 / log2(1 + place of the label), 0 beyond place {FIRST}; with one right answer "
    "for each example this is the normalised discounted cumulative gain",
    "mrr": "mean of 1 / place of the label among all classes",
    "macro_auc": "mean over classes of the area under the ROC curve, one class against the rest (Mann–Whitney, ties "
    "count half), by the odds of the class; with two classes, the area of either",
}


def top_k_accuracy(logits: Floats, labels: Ints, k: int = TOP) -> float:
    """Share of examples whose label is among the k largest logits.

    Equal logits rank in the order of the classes, as `predictions` reads them; so k = 1 is the accuracy.

    Raises:
        InputError: k is below 1.
    """
    if k < 1:
        raise InputError("top-k accuracy needs a k of at least 1", given=k)
    return float(np.mean(places(logits, labels) <= k))


def places(logits: Floats, labels: Ints, *, leave_out: NDArray[np.bool_] | None = None) -> Ints:
    """The place of each label among the logits, largest first, (N,) from 1; equal logits in the order of the classes.

    Args:
        logits: (N, C).
        labels: (N,).
        leave_out: (N, C) items that are not shown to the user of a row, such as those of its history; the label itself
            is shown.

    Raises:
        InputError: `leave_out` has another shape or type.
    """
    own = logits[np.arange(labels.size), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & earlier)
    if leave_out is not None:
        if leave_out.shape != logits.shape or leave_out.dtype != np.bool_:
            raise InputError(
                "`leave_out` does not fit the logits", given=f"{leave_out.shape} {leave_out.dtype}",
                expected=f"{logits.shape} bool",
            )  # fmt: skip
        before &= ~leave_out
    return np.asarray(1 + before.sum(axis=1), dtype=np.int64)


def gains(found: Ints, k: int = FIRST) -> dict[str, Floats]:
    """What each example adds to hit rate, NDCG and MRR, (N,) each: their means are the metrics.

    Args:
        found: (N,) from `places`.
        k: how many places are looked at, for the first two.

    Raises:
        InputError: k is below 1.
    """
    if k < 1:
        raise InputError("a list that is looked at has at least one place", given=k)
    hit = (found <= k).astype(np.float64)
    return {f"hit_rate_{k}": hit, f"ndcg_{k}": hit / np.log2(1.0 + found), "mrr": 1.0 / found}


def gain_columns(logits: Floats, labels: Ints) -> dict[str, tuple[Floats, Floats]]:
    """The same for `resampling.ratios`, where there are so many classes that places matter; else nothing."""
    if logits.shape[1] < LEAST_CLASSES_FOR_PLACES:
        return {}
    one = np.ones(labels.size)
    return {name: (column, one) for name, column in gains(places(logits, labels)).items()}


def compare_places(
    first: Floats,
    second: Floats,
    labels: Ints,
    *,
    k: int = FIRST,
    leave_out: NDArray[np.bool_] | None = None,
    resamples: int = 10_000,
) -> tuple[dict[str, Estimate], dict[str, Estimate], dict[str, Estimate]]:
    """Hit rate, NDCG and MRR of two recommenders about the same users, and first − second, with bootstrap intervals.

    Args:
        first, second: (N, C) logits, or any scores.
        labels: (N,), the item that was chosen.
        k: how many places are looked at.
        leave_out: see `places`.
        resamples: of the users.

    Returns:
        Metric -> estimate for the first, the second, and their paired difference.
    """
    one = np.ones(labels.size)
    sides = [gains(places(side, labels, leave_out=leave_out), k) for side in (first, second)]
    parts = [[ratios({name: (column, one) for name, column in side.items()})] for side in sides]
    ours, theirs, difference = bootstrap(parts, labels.size, unit="users", resamples=resamples)
    return ours, theirs, difference


def roc_curve(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The points of a ROC curve from (0, 0) to (1, 1), one for each distinct score.

    Args:
        scores: (N,) numbers, larger for what is more likely positive.
        positive: (N,) bool.

    Returns:
        False positive rates, true positive rates and the least score that counts as positive, each (M + 1,) for M
        distinct scores; the first threshold is +inf.

    Raises:
        InputError: the shapes differ, a score is NaN, or one of the two sides has no example.
    """
    values, truth = _two_sides(scores, positive)
    if truth.all() or not truth.any():
        raise InputError(
            "a ROC curve needs examples of both sides", given=f"{int(truth.sum())} of {truth.size} positive"
        )
    distinct, group = np.unique(values, return_inverse=True)
    hits = np.bincount(group, weights=truth, minlength=distinct.size)[::-1].cumsum()
    misses = np.bincount(group, weights=~truth, minlength=distinct.size)[::-1].cumsum()
    start = np.zeros(1)
    return (
        np.concatenate([start, misses / misses[-1]]),
        np.concatenate([start, hits / hits[-1]]),
        np.concatenate([[np.inf], distinct[::-1]]),
    )


def auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Area under the ROC curve by ranks, equal scores counting half; None where one of the two sides has no example.

    Args:
        scores: (N,) numbers, larger for what is more likely positive.
        positive: (N,) bool.

    Raises:
        InputError: the shapes differ, or a score is NaN.
    """
    values, truth = _two_sides(scores, positive)
    ours = int(truth.sum())
    theirs = truth.size - ours
    if not ours or not theirs:
        return None
    pairs = float(rankdata(values)[truth].sum()) - ours * (ours + 1) / 2
    return pairs / (ours * theirs)


def _two_sides(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if values.ndim != 1 or values.shape != truth.shape or np.isnan(values).any():
        raise InputError(
            "every example needs one score that is a number, and its side",
            given=f"{values.shape} scores, {int(np.isnan(values).sum())} NaN, {truth.shape} sides",
        )
    return values, truth


def log_odds(logits: Floats) -> Floats:
    """log(p / (1 − p)) of every class against the rest, (N, C).

    Ranks as the probability does, but exactly: two probabilities that both round to 1 would be a tie that is none.
    """
    if logits.shape[1] == 2:
        first = logits[:, 0] - logits[:, 1]
        return np.stack([first, -first], axis=1)
    rows, top = np.arange(logits.shape[0]), predictions(logits)
    log_p = log_probabilities(logits)
    log_p[rows, top] = -np.inf  # what is left is at most 1/2, where 1 − p keeps its digits
    odds = log_p - np.log1p(-np.exp(log_p))
    odds[rows, top] = top_log_odds(logits)
    return odds


def auc_by_class(logits: Floats, labels: Ints) -> Floats:
    """AUC of every class against the rest, (C,); NaN for a class without test examples, or with all of them."""
    odds = log_odds(logits)
    return np.array([auc(odds[:, number], labels == number) for number in range(logits.shape[1])], dtype=np.float64)


def macro_auc(areas: Floats) -> float | None:
    """Mean over the classes that have an AUC, or None; of two classes both have the same one, the binary AUC."""
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if known.size else None


def class_marks(logits: Floats, labels: Ints) -> Marks:
    """Precision, F1 and AUC of every class, each (C,), NaN where not defined; recall stands in `metrics`."""
    counts = confusion(logits, labels)
    return {"precision": precisions(counts), "f1": f1s(counts), "auc": auc_by_class(logits, labels)}


def with_marks(rows: Sequence[dict[str, Any]], marks: Mapping[str, Sequence[Marks]]) -> list[dict[str, Any]]:
    """Add to the row of every class: mark -> model -> mean over seeds, None where not defined, ready for JSON."""
    means = {
        mark: {model: np.mean([one[mark] for one in several], axis=0).tolist() for model, several in marks.items()}
        for mark in next(iter(marks.values()))[0]
    }
    return [
        row | {mark: clean({name: values[i] for name, values in by_model.items()}) for mark, by_model in means.items()}
        for i, row in enumerate(rows)
    ]


def measure(logits: Floats, labels: Ints, areas: Floats) -> dict[str, float]:
    """The metrics of this module by name, shares of 1; what is not defined is left out.

    Args:
        logits: (N, C).
        labels: (N,).
        areas: (C,), what `auc_by_class` says of them.
    """
    found: dict[str, float] = {}
    if logits.shape[1] >= LEAST_CLASSES_FOR_TOP:
        found["top5_accuracy"] = top_k_accuracy(logits, labels)
    found |= {name: float(above.mean()) for name, (above, _) in gain_columns(logits, labels).items()}
    area = macro_auc(areas)
    return found if area is None else {**found, "macro_auc": area}
