"""Did distillation help? The same student with and without a teacher, paired seed by seed and example by example.

With two seeds or more the interval over seeds decides, since another seed is what a reader will train; the interval
over test examples stands beside it. With a single run only the test examples can speak, and the words say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from tutelage.evaluation import metrics
from tutelage.evaluation.differences import bootstrap_rows
from tutelage.evaluation.significance import (
    Estimate,
    benjamini_hochberg,
    holm,
    mcnemar,
    minimum_detectable,
    paired_bootstrap,
    paired_by_seed,
    paired_p,
    wilson,
)

Right = NDArray[np.bool_]  # (N,) which test examples one model got right
Marks = NDArray[Any]  # (N,) which examples were right, or how right they were, in [0, 1]
Ints = NDArray[np.int64]
FALSE_DISCOVERY_RATE = 0.05
MOST_MATRIX_CLASSES = 20
_MOST_PAIRS = 12


def compare(
    name: str, first: Mapping[int, Marks], against: str, second: Mapping[int, Marks], labels: Ints, *, resamples: int
) -> dict[str, Any]:
    """One paired comparison of two arms over their common seeds, as it stands in the report.

    Args:
        name, first: an arm, and by seed which test examples it got right, (N,) bool, or how right it was, (N,) float
            within [0, 1].
        against, second: likewise, what it is held against.
        labels: (N,) within which test examples are drawn again.
        resamples: of the bootstrap over test examples.
    """
    seeds = sorted(first.keys() & second.keys())
    a, b = np.stack([first[seed] for seed in seeds]), np.stack([second[seed] for seed in seeds])
    ours, theirs, n = a.mean(axis=1).tolist(), b.mean(axis=1).tolist(), int(labels.size)
    by_seed = paired_by_seed(ours, theirs, n)
    graded = a.dtype != np.bool_
    by_example = (_graded if graded else paired_bootstrap)(a, b, labels, resamples=resamples)
    single = len(seeds) == 1
    deciding = by_example if single else by_seed
    gained, lost = int((a > b).sum()), int((b > a).sum())
    apart = float(((a - b) ** 2).sum()) if graded else gained + lost
    of_examples = _mean_p(a[0] - b[0]) if graded else mcnemar(gained, lost)
    return {
        "name": name,
        "against": against,
        "basis": "examples" if single else "seeds",
        "decision": decide(deciding),
        "difference": deciding.to_json(),
        "by_seed": None if single else by_seed.to_json(),
        "by_example": by_example.to_json(),
        "per_seed": [{"seed": seed, "difference": x - y} for seed, x, y in zip(seeds, ours, theirs, strict=True)],
        "p": of_examples if single else paired_p(ours, theirs, n),
        "p_method": ("paired t by example" if graded else "McNemar, exact") if single else "paired t by seed",
        "newly_right": gained / len(seeds),
        "newly_wrong": lost / len(seeds),
        "minimum_detectable": minimum_detectable(apart / (n * len(seeds)), n),
    }


def _graded(first: Marks, second: Marks, labels: Ints, *, resamples: int) -> Estimate:
    """The bootstrap of a mean difference whose values are many, so that rows have to be drawn themselves."""
    gap = first.mean(axis=0) - second.mean(axis=0)
    found = bootstrap_rows(float(gap.mean()), lambda rows: gap[rows].mean(axis=1), labels, resamples)
    return replace(found, seeds=len(first))


def compare_pairs(
    pairs: Mapping[str, str], right: Mapping[str, Mapping[int, Right]], labels: Ints, *, resamples: int
) -> list[dict[str, Any]]:
    """Several arms, each against the one that is named beside it; p-values are adjusted by Holm over all of them.

    Args:
        pairs: arm -> the arm it is held against.
        right: arm -> seed -> (N,) which test examples were right.
        labels: (N,).
        resamples: of the bootstrap over test examples.
    """
    return adjust(
        [compare(name, right[name], other, right[other], labels, resamples=resamples) for name, other in pairs.items()]
    )


def decide(interval: Estimate) -> str:
    """`gain`, `worse`, or `none` where the interval holds 0."""
    assert interval.ci_low is not None
    assert interval.ci_high is not None
    if interval.ci_low > 0:
        return "gain"
    return "worse" if interval.ci_high < 0 else "none"


def adjust(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_adjusted` by Holm: who tries several students must not keep the luckiest unmarked."""
    adjusted = holm([comparison["p"] for comparison in comparisons])
    return [{**comparison, "p_adjusted": p} for comparison, p in zip(comparisons, adjusted, strict=True)]


def by_class(
    classes: Sequence[str],
    labels: Ints,
    right: Mapping[str, NDArray[np.float64]],
    *,
    headline: str,
    baseline: str | None,
) -> list[dict[str, Any]]:
    """Recall of every class for every model, and where the headline student left its baseline and its teacher.

    Args:
        classes: names.
        labels: (N,).
        right: model -> (N,) share of seeds that got the example right.
        headline: the student that is looked at.
        baseline: the same student without a teacher, if one was trained.
    """
    rows, p_values = [], []
    for number, name in enumerate(classes):
        here = labels == number
        n = int(here.sum())
        recall = {model: float(values[here].mean()) if n else None for model, values in right.items()}
        change = right[headline][here] - right[baseline][here] if baseline and n else None
        own = recall[headline]
        rows.append(
            {
                "class": name,
                "n": n,
                "recall": recall,
                "interval": None if own is None else wilson(own, n).to_json(),
                "cost": None if own is None else float((right[headline][here] - right["teacher"][here]).mean()),
                "change": None if change is None else float(change.mean()),
            }
        )
        p_values.append(1.0 if change is None else _mean_p(change))
    return [
        {**row, "p_adjusted": p, "changed": p <= FALSE_DISCOVERY_RATE}
        for row, p in zip(rows, benjamini_hochberg(p_values), strict=True)
    ]


def _mean_p(values: NDArray[np.float64]) -> float:
    """Two-sided p that the mean of paired differences is 0, by Student's t over examples."""
    if values.size < 2 or not values.any():
        return 1.0
    spread = float(values.std(ddof=1))
    if spread == 0.0:  # every example moved the same way: as surprising as that many equal coin tosses
        return float(2.0 * 0.5**values.size)
    return float(2 * stdtr(values.size - 1, -abs(float(values.mean())) / spread * np.sqrt(values.size)))


def mistakes(
    logits: Mapping[str, list[metrics.Floats]], truth: metrics.Ints, classes: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """Row-normalised confusions averaged over seeds, and the pairs that the headline student mixes up most."""
    unique = list(dict.fromkeys(names))
    rates: dict[str, NDArray[np.float64]] = {}
    support = np.bincount(truth, minlength=len(classes))
    for name in unique:
        counts = np.mean([metrics.confusion(one, truth) for one in logits[name]], axis=0)
        rates[name] = counts / np.maximum(support, 1)[:, None]
    mistakes = rates[unique[-1]] * support[:, None]
    np.fill_diagonal(mistakes, 0.0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_MOST_PAIRS].tolist()
    places = [divmod(index, len(classes)) for index in order if mistakes.flat[index] > 0]
    small = len(classes) <= MOST_MATRIX_CLASSES
    return {
        "models": unique,
        "rates": {name: rate.round(6).tolist() for name, rate in rates.items()} if small else None,
        "difference": (rates[unique[-1]] - rates[unique[-2]]).round(6).tolist() if small and len(unique) == 3 else None,
        "pairs": [
            {
                "true": classes[i],
                "predicted": classes[j],
                "n": int(support[i]),
                "rates": {name: float(rate[i, j]) for name, rate in rates.items()},
            }
            for i, j in places
        ],
    }
