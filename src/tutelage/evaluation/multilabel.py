"""Several labels at once: each example has any number of them, and some may not be known.

Shapes: N examples · L labels. Scores are larger for what is more likely; targets are 0 or 1; an unknown label counts
nowhere: not as present, not as absent, not as a rival in a ranking. What is defined depends on the truth alone, so two
models are always judged on the same labels and examples. Ranks follow Tsoumakas, Katakis & Vlahavas (2010).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from tutelage.errors import InputError
from tutelage.evaluation.metrics import Floats
from tutelage.evaluation.resampling import Part, divided, mean_defined, ratios, values_of

Bools = NDArray[np.bool_]
Known = tuple[Floats, Bools, Bools]  # scores, present and known, known: each (N, L)
MAIN = "map"
METHODS = {
    "map": "mean over labels of the average precision, Σ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores; "
    "labels that no example has are left out",
    "macro_auc": "mean over labels of the area under the ROC curve, equal scores counting half; labels that no example "
    "has, or that all have, are left out",
    "micro_f1": "F1 over all pairs of example and label, at the threshold; missing where nothing is true or named",
    "macro_f1": "mean over labels of the F1 at the threshold; labels that no example has are left out",
    "samples_f1": "mean over examples of the F1 at the threshold; 1 where nothing is true and nothing is named",
    "hamming_loss": "share of known labels that are wrong at the threshold",
    "exact_match": "share of examples whose known labels are all right at the threshold; "
    "examples without a known label are left out",
    "coverage_error": "mean over examples of how many labels must be named, by falling score, until all true ones are "
    "among them; equal scores count as named; examples without a true label are left out",
    "lrap": "label-ranking average precision: mean over examples of the mean, over true labels, of the share of true "
    "ones among the labels that score as high; examples without a true label are left out",
}
LOWER = frozenset({"hamming_loss", "coverage_error"})  # less is better; of all others more
PLAIN = frozenset({"coverage_error"})  # no share of 1


def as_multilabel(scores: ArrayLike, targets: ArrayLike, unknown: ArrayLike | None = None) -> Known:
    """Scores, what is known to be true, and what is known at all, each (N, L).

    Args:
        scores: (N, L) finite numbers.
        targets: (N, L) of 0 and 1, or bool; anything where unknown.
        unknown: (N, L) bool, or 0 and 1: 1 where the label is not known; None where all are.

    Raises:
        InputError: the shapes differ, a score is not finite, a target is neither 0 nor 1, or nothing is known.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    masked = np.zeros(truth.shape, dtype=np.bool_) if unknown is None else np.asarray(unknown)
    if values.ndim != 2 or 0 in values.shape or values.shape != truth.shape or masked.shape != truth.shape:
        raise InputError(
            "every example needs one score and one target for each label",
            given=f"scores {values.shape}, targets {truth.shape}, unknown {masked.shape}",
            expected="(N, L) each, not empty",
        )
    if not np.isin(masked, (0, 1)).all():
        raise InputError("`unknown` says of each label whether it is not known", expected="true and false, or 1 and 0")
    known = ~masked.astype(np.bool_)
    if not np.isin(truth[known], (0, 1)).all():
        raise InputError(
            "a target is neither 0 nor 1", given=truth[known][~np.isin(truth[known], (0, 1))][0],
            expected="0 or 1, and `unknown` where it is not known",
        )  # fmt: skip
    if not np.isfinite(values).all() or not known.any():
        wrong = int((~np.isfinite(values)).sum())
        raise InputError("scores must be finite numbers" if wrong else "no label is known", given=wrong or None)
    return values, known & (truth == 1), known


def best_threshold(scores: ArrayLike, targets: ArrayLike, unknown: ArrayLike | None = None) -> float:
    """The one threshold for all labels with the highest micro-F1: to be chosen on the validation part.

    It lies midway between two neighbouring scores; of several that are equally good it is the highest. A label is
    named where its score is at least the threshold.

    Raises:
        InputError: as `as_multilabel`, or no label is true, so that any threshold is as good.
    """
    values, truth, known = as_multilabel(scores, targets, unknown)
    if not truth.any():
        raise InputError("no threshold can be chosen where no label is true", fix="use more validation examples")
    distinct, group = np.unique(values[known], return_inverse=True)
    hits = np.bincount(group, weights=truth[known])[::-1].cumsum()
    named = np.bincount(group)[::-1].cumsum()
    place = distinct.size - 1 - int(np.argmax(2 * hits / (named + hits[-1])))
    if place == 0:
        return float(distinct[0])
    middle = float(distinct[place - 1] / 2 + distinct[place] / 2)
    return middle if middle > distinct[place - 1] else float(distinct[place])


def label_areas(scores: Floats, positive: Bools) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Average precision and AUC of one label as functions of weights (B, N), each (B,); NaN where not defined.

    Args:
        scores: (N,).
        positive: (N,).
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) != 0]))
    ours, theirs = positive[order].astype(np.float64), (~positive[order]).astype(np.float64)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        sorted_weights = weights[:, order]
        hit = np.add.reduceat(sorted_weights * ours, starts, axis=1)
        miss = np.add.reduceat(sorted_weights * theirs, starts, axis=1)
        hits, misses = hit.cumsum(axis=1), miss.cumsum(axis=1)
        all_hits, all_misses = hits[:, -1], misses[:, -1]
        # Before the first draw both sums are 0, and so is what they would weigh.
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).tiny)
        below = (miss * (hits - hit / 2)).sum(axis=1)
        return divided((hit * precision).sum(axis=1), all_hits), divided(below, all_hits * all_misses)

    return at


def areas(known: Known) -> Part:
    """`map` and `macro_auc` under weights."""
    scores, truth, held = known
    rows = [np.flatnonzero(held[:, label]) for label in range(scores.shape[1])]
    each = [label_areas(scores[own, label], truth[own, label]) for label, own in enumerate(rows) if own.size]
    rows = [own for own in rows if own.size]

    def at(weights: Floats) -> dict[str, Floats]:
        found = [
            one(weights if own.size == len(scores) else weights[:, own]) for own, one in zip(rows, each, strict=True)
        ]
        precisions, under = (np.stack(side, axis=1) for side in zip(*found, strict=True))
        return {"map": mean_defined(precisions), "macro_auc": mean_defined(under)}

    return Part(at, width=2 * len(rows))


def parts(known: Known, threshold: float) -> list[Part]:
    """Every metric of this module, for `resampling`.

    Args:
        known: what `as_multilabel` returned.
        threshold: a label is named where its score is at least this.
    """
    scores, truth, held = known
    named = held & (scores >= threshold)
    right = named & truth
    # F1 = 2 · right / (named + true), whichever pairs are counted.
    twice, both = 2.0 * right, named.astype(np.float64) + truth
    wrong = np.asarray((named != truth).sum(axis=1), dtype=np.float64)
    some = np.asarray(held.any(axis=1), dtype=np.float64)
    per_row = np.asarray(np.where(both.sum(axis=1) > 0, twice.sum(axis=1) / np.maximum(both.sum(axis=1), 1), 1.0))
    depth, precision, ranked = _row_ranks(known)
    rows = ratios(
        {
            "micro_f1": (twice.sum(axis=1), both.sum(axis=1)),
            "samples_f1": (np.asarray(per_row * some), some),
            "hamming_loss": (wrong, held.sum(axis=1).astype(np.float64)),
            "exact_match": (np.where(wrong == 0, some, 0.0), some),
            "coverage_error": (depth, ranked),
            "lrap": (precision, ranked),
        }
    )

    def by_label(weights: Floats) -> dict[str, Floats]:
        f1s = divided(weights @ twice, weights @ both)
        return {"macro_f1": mean_defined(np.where(weights @ truth.astype(np.float64) > 0, f1s, np.nan))}

    return [areas(known), rows, Part(by_label, width=1 + scores.shape[1] // 16)]


def _row_ranks(known: Known) -> tuple[Floats, Floats, Floats]:
    """Of every example, (N,): the rank of its last true label, its ranking precision, and whether it has a true one."""
    scores, truth, held = known
    # From above; of equal scores all have the rank of the last. What is not known, or not true, stands behind.
    rank = rankdata(np.where(held, -scores, np.inf), method="max", axis=1)
    among = rankdata(np.where(truth, -scores, np.inf), method="max", axis=1)
    count = truth.sum(axis=1)
    precision = np.where(truth, among / rank, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(truth, rank, 0.0).max(axis=1), precision, (count > 0).astype(np.float64)


def measure(
    scores: ArrayLike, targets: ArrayLike, *, threshold: float, unknown: ArrayLike | None = None
) -> dict[str, float]:
    """Every metric of this module by name; what is not defined is left out.

    Args:
        scores: (N, L).
        targets: (N, L) of 0 and 1.
        threshold: a label is named where its score is at least this; see `best_threshold`.
        unknown: (N, L) bool, true where a label is not known.

    Raises:
        InputError: as `as_multilabel`.
    """
    known = as_multilabel(scores, targets, unknown)
    return values_of(parts(known, threshold), len(known[0]))


def label_rows(known: Known, threshold: float) -> list[dict[str, Any]]:
    """Of every label: how many examples are known and true, average precision, AUC and F1; None where not defined."""
    scores, truth, held = known
    rows: list[dict[str, Any]] = []
    for label in range(scores.shape[1]):
        own = held[:, label]
        values, positive = scores[own, label], truth[own, label]
        named, count = values >= threshold, int(positive.sum())
        found: dict[str, float | None] = {"average_precision": None, "auc": None, "f1": None}
        if count:
            precision, area = (float(side[0]) for side in label_areas(values, positive)(np.ones((1, values.size))))
            f1 = 2 * int((named & positive).sum()) / (int(named.sum()) + count)
            found = {"average_precision": precision, "auc": None if np.isnan(area) else area, "f1": f1}
        rows.append({"label": label, "known": int(own.sum()), "true": count} | found)
    return rows
