"""The points of the curves that a report draws: how sure, how right when sure, and how well told apart.

Points are means over seeds, or seeds pooled, and few enough for a page. They are for the eye; the numbers beside them
(ECE, AURC, AUC) are computed from all examples.

Shapes: N examples · C classes · S seeds. Logits are finite float64, as `metrics.as_logits` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.evaluation.calibration import risk_coverage
from tutelage.evaluation.metrics import ECE_BINS, Floats, Ints, equal_mass, log_probabilities, predictions
from tutelage.evaluation.ranking import log_odds, roc_curve
from tutelage.evaluation.significance import Estimate, wilson

HISTOGRAM_BINS = 20
MOST_POINTS = 100
MOST_ROC_CLASSES = 100  # a ROC curve sorts all examples once for every class
METHODS = {
    "reliability": f"{ECE_BINS} equal-mass bins of the top class's confidence, seeds pooled; intervals are Wilson's, "
    "of as many examples as a bin holds of one seed, since seeds answer the same examples",
    "risk_coverage": f"error rate on the examples that a model is surest of, mean over seeds, at most {MOST_POINTS} of "
    "the N points whose mean is the AURC",
    "roc": "mean over seeds and classes of the true positive rate of one class against the rest at "
    f"{MOST_POINTS - 1} false positive rates, denser towards 0",
}
_DIGITS = 6


def drawn(logits: Mapping[str, Sequence[Floats]], truth: Ints) -> dict[str, Any]:
    """Reliability, confidences, risk against coverage and ROC of every model, ready for JSON.

    Returns:
        {n, classes, methods, models {name: {seeds, reliability, confidence, risk_coverage, roc}}}, where

        * reliability is a list of at most 15 bins {n, low, high, confidence, accuracy E} from least to most sure; n
          counts all seeds;
        * confidence is {edges, right, wrong}: shares of all answers in 20 bins of equal width, which add up to 1;
        * risk_coverage is {coverage, risk} and roc {false_positive, true_positive}, or null beyond 100 classes or
          where no class has both examples and others; each at most 100 numbers.

    Args:
        logits: model -> one (N, C) array per seed, for the models that shall be drawn.
        truth: (N,) class numbers.

    Raises:
        InputError: a model without answers, or answers that do not fit the labels.
    """
    for name, several in logits.items():
        check(name, several, truth)
    widths = {several[0].shape[1] for several in logits.values()}
    if len(widths) != 1:
        raise InputError(
            "models to be drawn answer different numbers of classes", given=sorted(widths), expected="one number"
        )
    return {
        "n": int(truth.size),
        "classes": widths.pop(),
        "methods": dict(METHODS),
        "models": {name: _model(several, truth) for name, several in logits.items()},
    }


def check(name: str, several: Sequence[Floats], truth: Ints) -> None:
    """Refuse answers that are not one (N, C) array per seed.

    Raises:
        InputError: there are none, or one has another shape.
    """
    shapes = {one.shape for one in several}
    if len(shapes) != 1 or any(len(shape) != 2 or shape[0] != truth.size for shape in shapes):
        raise InputError(
            f"answers of `{name}` do not fit the labels",
            given=", ".join(map(str, sorted(shapes))) or "no answers",
            expected=f"({truth.size}, C) for every seed",
        )


def _model(several: Sequence[Floats], truth: Ints) -> dict[str, Any]:
    confidence = np.concatenate([np.exp(log_probabilities(one).max(axis=1)) for one in several])
    right = np.concatenate([predictions(one) == truth for one in several])
    return {
        "seeds": len(several),
        "reliability": _reliability(confidence, right, len(several)),
        "confidence": _histogram(confidence, right),
        "risk_coverage": _risk_coverage(several, truth),
        "roc": _roc(several, truth),
    }


def _reliability(confidence: Floats, right: NDArray[np.bool_], seeds: int) -> list[dict[str, Any]]:
    parts, accurate = equal_mass(confidence, right.astype(np.float64), ECE_BINS)
    return [
        {
            "n": int(part.size),
            "low": float(confidence[part].min()),
            "high": float(confidence[part].max()),
            "confidence": float(confidence[part].mean()),
            "accuracy": pooled(float(accurate[part].mean()), part.size, seeds).to_json(),
        }
        for part in parts
    ]


def pooled(share: float, count: int, seeds: int) -> Estimate:
    """Wilson's interval of a share of `count` answers of several seeds to the same examples: n is that of one seed."""
    found = wilson(min(1.0, share), max(1, round(count / seeds)), seeds=seeds)
    return found if seeds == 1 else replace(found, method=f"{found.method}, seeds pooled")


def _histogram(confidence: Floats, right: NDArray[np.bool_]) -> dict[str, list[float]]:
    edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
    sides = {"right": confidence[right], "wrong": confidence[~right]}
    shares = {name: np.histogram(side, edges)[0] / confidence.size for name, side in sides.items()}
    return {"edges": _listed(edges)} | {name: _listed(share) for name, share in shares.items()}


def _risk_coverage(several: Sequence[Floats], truth: Ints) -> dict[str, list[float]]:
    """The mean curve at places that lie closer together where few examples are covered and the curve moves."""
    coverage = risk_coverage(several[0], truth)[0]
    risk = np.mean([risk_coverage(one, truth)[1] for one in several], axis=0)
    n = np.arange(truth.size)
    if truth.size > MOST_POINTS:
        n = np.unique(np.rint(np.linspace(0, 1, MOST_POINTS) ** 2 * (truth.size - 1)).astype(np.int64))
    return {"coverage": _listed(coverage[n]), "risk": _listed(risk[n])}


def _roc(several: Sequence[Floats], truth: Ints) -> dict[str, list[float]] | None:
    classes = several[0].shape[1]
    known = [label for label in range(classes) if 0 < int((truth == label).sum()) < truth.size]
    if classes > MOST_ROC_CLASSES or not known:
        return None
    # Denser towards 0, where the curve of a good model has all its shape.
    grid = np.linspace(0, 1, MOST_POINTS - 1) ** 2
    found = np.zeros(grid.size)
    for one in several:
        odds = log_odds(one)
        for label in known:
            false, true, _ = roc_curve(odds[:, label], truth == label)
            found += np.interp(grid, false, true)  # of several points above one another it takes the highest
    mean = found / (len(several) * len(known))
    return {"false_positive": [0.0, *_listed(grid)], "true_positive": [0.0, *_listed(mean)]}


def _listed(values: Floats) -> list[float]:
    return [float(value) for value in values.round(_DIGITS)]
