"""What the folds of a cross-validation say together: a paired difference whose interval knows that folds overlap.

Training parts of k folds share most of their examples, so their differences are not independent, and the plain t
interval over folds is too short. Nadeau and Bengio (2003) widen the variance by n_test / n_train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from tutelage.errors import InputError
from tutelage.evaluation.comparison import adjust, decide
from tutelage.evaluation.significance import LEVEL, Estimate

__all__ = ["METHOD", "decided_by_folds", "over_folds"]

METHOD = "t over folds, variance corrected for shared training examples (Nadeau & Bengio, 2003)"


def over_folds(
    differences: Sequence[float], *, tested: int, trained: int, seeds: int = 1, level: float = LEVEL
) -> tuple[Estimate, float | None]:
    """Mean of paired differences by fold with its interval, and the two-sided p that it is 0.

    Args:
        differences: (k,) one for each fold, a mean over seeds where there are several.
        tested, trained: examples of a fold's test and training part, on average.
        seeds: how many stand behind each difference.
        level: of the interval.

    Raises:
        InputError: fewer than two folds.
    """
    count = len(differences)
    if count < 2 or tested < 1 or trained < 1:
        raise InputError("an interval over folds needs two or more", given=f"{count} folds, {tested} and {trained}")
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    error = spread * math.sqrt(1 / count + tested / trained)
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    p = None if error == 0.0 else float(2 * stdtr(count - 1, -abs(mean) / error))
    return Estimate(mean, mean - half, mean + half, tested * count, seeds, METHOD), p


def decided_by_folds(comparisons: Sequence[Mapping[str, Any]], folds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of a pooled report as the folds decide them: what differs from one division to the next is more
    than test examples, or seeds of one division, show.

    Args:
        comparisons: of the scorecard of all folds together.
        folds: the report's `folds`: {count, comparisons [{difference, p, …}]}, in the same order.
    """
    found = []
    for item, own in zip(comparisons, folds["comparisons"], strict=True):
        said = own["difference"]
        # Where all folds agree to the digit there is no p: a difference of 0 is as it is, and any other one is sure.
        p = own["p"] if own["p"] is not None else float(said["value"] == 0.0)
        found.append({
            **item, "basis": "folds", "folds": folds["count"], "decision": decide(Estimate(**said)),
            "difference": said, "by_seed": said, "p": p, "p_method": said["method"],
        })  # fmt: skip
    return adjust(found)
