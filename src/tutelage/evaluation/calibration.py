"""Whether a model's confidence can be believed, and how much of that one number mends.

Soft targets change how sure a student is. So does dividing its logits by one temperature, which anybody can fit on the
validation part in a second; what is left after that is what distillation may be credited with. The temperature is
fitted on validation answers only and applied to the test part (Guo et al., 2017).

Shapes: N examples · C classes. Logits are finite float64, as `metrics.as_logits` returns them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from tutelage.errors import InputError
from tutelage.evaluation.metrics import (
    ECE_BINS,
    Floats,
    Ints,
    as_answers,
    as_labels,
    ece,
    log_probabilities,
    nll,
    predictions,
    top_log_odds,
)

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
DEBIASED_METHOD = (
    f"debiased L2 estimate (Kumar, Liang & Ma, 2019) over at most {ECE_BINS} equal-mass bins of the top class's "
    "confidence: √max(0, Σ share · ((confidence − accuracy)² − accuracy · (1 − accuracy) / (n − 1)))"
)
METHODS = {
    "temperature": "the T that minimises the NLL of logits / T on the validation part; missing where it has no minimum "
    f"between {LEAST_TEMPERATURE} and {MOST_TEMPERATURE:g}, as with answers that are all right",
    "nll_scaled": "NLL of logits / T, nats, with the temperature from the validation part",
    "ece_scaled": "ECE of logits / T, with the temperature from the validation part",
    "calibration_l2": DEBIASED_METHOD,
    "aurc": "area under the risk–coverage curve (Geifman & El-Yaniv): mean, over n = 1 … N, of the error rate on the n "
    "examples that the model is surest of; equally sure ones share their errors",
}


@dataclass(frozen=True, slots=True)
class Temperature:
    """One fitted temperature, and what it did to the answers it was fitted on."""

    value: float
    nll_before: float  # nats, at temperature 1
    nll_after: float  # never above `nll_before`


def temperature_of(name: str, logits: ArrayLike | None, labels: ArrayLike | None, classes: int) -> Temperature | None:
    """The temperature of a model from its validation answers; None where there are none, or no T fits them.

    Args:
        name: of the model, for messages.
        logits: (V, C) as they came.
        labels: (V,) class numbers.
        classes: C.

    Raises:
        InputError: there are answers without labels, or they do not fit the labels or the classes.
    """
    if logits is None:
        return None
    if labels is None:
        raise InputError(f"`{name}` has validation answers, but no labels came with them", fix="pass `val_labels`")
    truth = as_labels(labels, classes)
    return fit_temperature(as_answers(name, logits, truth.size, classes), truth)


def fit_temperature(logits: Floats, labels: Ints) -> Temperature | None:
    """The temperature that minimises the NLL of `logits / T`; None where no T in [0.05, 20] is a minimum.

    The NLL is convex in 1/T, so it has one minimum at most, and it lies inside the bounds exactly if the slope turns
    its sign between them. It lies at T → 0 where all answers are right, and at T → ∞ or beyond where they are no
    better than chance. The search is over log T, in which the two sides of 1 are alike.

    Args:
        logits: (N, C) validation answers.
        labels: (N,).
    """
    # Differences from the label's logit: all the NLL depends on, and they need no care about large numbers.
    gaps = logits - logits[np.arange(labels.size), labels][:, None]
    if not _slope(gaps, 1 / MOST_TEMPERATURE) < 0 < _slope(gaps, 1 / LEAST_TEMPERATURE):
        return None

    # The label's own gap is 0, so the NLL is a logsumexp; its largest terms are taken out once for all temperatures.
    peaks = gaps.max(axis=1)
    rest = gaps - peaks[:, None]

    def loss(log_t: float) -> float:
        inverse = np.exp(-log_t)
        return float(np.mean(peaks * inverse + np.log(np.exp(rest * inverse).sum(axis=1))))

    bounds = (float(np.log(LEAST_TEMPERATURE)), float(np.log(MOST_TEMPERATURE)))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9, "maxiter": 200})
    before, log_t = loss(0.0), float(found.x)
    after = loss(log_t)
    return Temperature(float(np.exp(log_t)), before, after) if after < before else Temperature(1.0, before, before)


def _slope(gaps: Floats, inverse: float) -> float:
    """Derivative of the NLL by 1/T: how far the mean logit lies above the label's, in nats."""
    return float((softmax(gaps * inverse, axis=1) * gaps).sum(axis=1).mean())


def debiased_l2(logits: Floats, labels: Ints, bins: int = ECE_BINS) -> float | None:
    """L2 calibration error of the top class, debiased; None for fewer than two examples.

    The estimator of Kumar, Liang & Ma, "Verified Uncertainty Calibration" (NeurIPS 2019): from the squared gap of each
    bin it takes the variance that its accuracy has anyway, so that a small test part does not look miscalibrated. A
    sum below 0, which chance may give to a model that is calibrated, is 0. As in their program, a bin ends where it
    does not part equal confidences, and one that this leaves with a single example adds nothing.
    """
    count = labels.size
    if count < 2:
        return None
    confidence = np.exp(log_probabilities(logits).max(axis=1))
    right = predictions(logits) == labels
    # Equal-mass bins of the sorted row; the bin of a value is that of its first place there.
    ends = np.cumsum([part.size for part in np.array_split(confidence, min(bins, count // 2))])
    first = np.searchsorted(np.sort(confidence), confidence, side="left")
    where = np.searchsorted(ends, first, side="right")
    n = np.bincount(where)
    held = n > 1
    n = n[held]
    sure = np.bincount(where, weights=confidence)[held] / n
    accurate = np.bincount(where, weights=right)[held] / n
    squared = np.sum(n / count * ((sure - accurate) ** 2 - accurate * (1 - accurate) / (n - 1)))
    return float(np.sqrt(max(0.0, float(squared))))


def risk_coverage(logits: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """Coverage n/N and the error rate on the n examples of highest confidence, each (N,), for n = 1 … N.

    Equally sure examples share their errors: the curve is the mean over all orders that they could stand in.
    """
    sure = top_log_odds(logits)
    wrong = (predictions(logits) != labels).astype(np.float64)
    _, group = np.unique(sure, return_inverse=True)
    wrong = (np.bincount(group, weights=wrong) / np.bincount(group))[group]
    n = np.arange(1, labels.size + 1)
    return n / labels.size, wrong[np.argsort(-sure, kind="stable")].cumsum() / n


def aurc(logits: Floats, labels: Ints) -> float:
    """Area under the risk–coverage curve (Geifman & El-Yaniv, 2017; Geifman et al., 2019), the mean of its N risks.

    0 for a model without errors, 1 for one without a right answer, and the error rate for one that is always as sure.
    """
    return float(risk_coverage(logits, labels)[1].mean())


def measure(logits: Floats, labels: Ints, temperature: Temperature | None) -> dict[str, float]:
    """The metrics of this module by name; what is not defined is left out.

    Args:
        logits: (N, C) test answers.
        labels: (N,).
        temperature: fitted on the validation part, if one could be.
    """
    found = {"aurc": aurc(logits, labels)}
    error = debiased_l2(logits, labels)
    if error is not None:
        found["calibration_l2"] = error
    if temperature is None:
        return found
    scaled = logits / temperature.value
    return {
        **found,
        "temperature": temperature.value,
        "nll_scaled": nll(scaled, labels),
        "ece_scaled": ece(scaled, labels),
    }
