"""The forms that a task can have, judged in one way: metrics with intervals, and two models paired.

Classification is judged by what `metrics`, `ranking`, `calibration` and `comparison` say of it; the other forms by
their own modules. Here they meet: which metric leads, which way is better, and the difference of two models.

Shapes: N examples (rows, for retrieval) · C classes · L labels · D numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.evaluation import calibration, comparison, metrics, multilabel, ranking, regression, retrieval
from tutelage.evaluation.calibration import Temperature
from tutelage.evaluation.differences import ece_difference
from tutelage.evaluation.metrics import Floats, Ints
from tutelage.evaluation.resampling import Part, bootstrap, ratios
from tutelage.evaluation.significance import Estimate, wilson

__all__ = ["FORMS", "Answers", "Form", "Verdict", "improvement", "judge"]

_ALONE = "one set of predictions"
_OF_TEACHERS = ("agreement", "divergence", "copied_errors")  # what only two models have
_OF_ONE = {name: method for name, method in metrics.METHODS.items() if name not in _OF_TEACHERS}
_COUNTED = ("accuracy", "macro_precision", "macro_recall", "macro_f1")  # what named classes alone allow


@dataclass(frozen=True, slots=True)
class Form:
    """One form of task, and how its metrics are to be read."""

    main: str  # the metric that leads, and that a gate looks at
    methods: Mapping[str, str]
    lower: frozenset[str]  # less is better
    plain: frozenset[str]  # no shares of 1: not written in percent
    neither: frozenset[str] = frozenset()  # no direction is better
    unit: str = "example"

    def sign(self, name: str) -> int:
        """1 where more is better, −1 where less is, 0 where neither."""
        return 0 if name in self.neither else -1 if name in self.lower else 1


FORMS: Mapping[str, Form] = {
    "classification": Form(
        "accuracy",
        _OF_ONE | ranking.METHODS | calibration.METHODS,
        frozenset({"nll", "brier", "ece", "nll_scaled", "ece_scaled", "calibration_l2", "aurc"}),
        frozenset({"nll", "brier", "nll_scaled", "temperature", "calibration_l2", "aurc"}),
        frozenset({"temperature"}),
    ),
    "multilabel": Form(multilabel.MAIN, multilabel.METHODS, multilabel.LOWER, multilabel.PLAIN),
    "regression": Form(
        regression.MAIN, regression.METHODS, regression.LOWER, regression.PLAIN, regression.NEITHER
    ),
    "retrieval": Form(retrieval.MAIN, retrieval.METHODS, retrieval.LOWER, retrieval.PLAIN, unit="query"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model said about some examples, and what is true of them. Arrays as the module of the form checks them.

    said:      classification (N, C) logits · multilabel (N, L) scores · regression (N, D) · retrieval (N,) scores
    truth:     classification (N,) class numbers · the others of the shape of `said`
    unknown:   multilabel, (N, L): labels that are not known
    variance:  regression, (N, D)
    queries:   retrieval, (N,)
    named:     classification: only the class was named; the logits say which, and nothing else
    threshold: multilabel: a label is named where its score is at least this
    scale:     classification: the temperature fitted on validation answers
    """

    task: str
    said: Floats
    truth: NDArray[Any]
    unknown: NDArray[np.bool_] | None = None
    variance: Floats | None = None
    queries: NDArray[Any] | None = None
    named: bool = False
    threshold: float = 0.5
    scale: Temperature | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The metrics of one or two models; of two, also first − second for every metric that has a paired interval."""

    units: int  # examples, or queries
    metrics: tuple[Mapping[str, Estimate], ...]
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    decisions: Mapping[str, str | None] = field(default_factory=dict)  # gain, none, worse; None without a direction
    p: float | None = None  # McNemar's, exact, of the accuracies
    rows: tuple[Mapping[str, Any], ...] = ()  # of the first model: one for each class or label


def judge(sides: Sequence[Answers], *, k: int = retrieval.AT, resamples: int = 10_000) -> Verdict:
    """The metrics of one model, or of two about the same examples in the same order.

    Args:
        sides: one model, or two: the first is held against the second.
        k: for retrieval, how many items are looked at.
        resamples: of the bootstrap; large data gets fewer where a metric is dear, which its method then says.

    Raises:
        InputError: an array cannot be judged, or an option is out of range.
        DataError: the leading metric is not defined for this data.
    """
    task = sides[0].task
    if task == "classification":
        return _classification(sides, resamples)
    units, parts, rows = _PARTS[task](sides, k)
    form = FORMS[task]
    unit = "queries" if task == "retrieval" else "test examples"
    found = bootstrap(parts, units, unit=unit, resamples=resamples)
    if form.main not in found[0]:
        raise DataError(f"`{form.main}` is not defined for this data", expected=form.methods[form.main])
    if len(sides) == 1:
        return Verdict(units, (found[0],), rows=rows)
    return Verdict(units, (found[0], found[1]), found[2], _decisions(form, found[2]), rows=rows)


def improvement(form: Form, name: str, difference: Estimate) -> Estimate:
    """A difference turned so that more is better."""
    if form.sign(name) >= 0:
        return difference
    turned = difference.scaled(-1.0)  # which leaves the ends where they were
    return Estimate(turned.value, turned.ci_high, turned.ci_low, turned.n, turned.seeds, turned.method)


def _decisions(form: Form, differences: Mapping[str, Estimate]) -> dict[str, str | None]:
    return {
        name: comparison.decide(improvement(form, name, one)) if one.ci_low is not None and form.sign(name) else None
        for name, one in differences.items()
    }


# ---- the forms -------------------------------------------------------------------------------------------------------

Prepared = tuple[int, list[list[Part]], tuple[Mapping[str, Any], ...]]


def _multilabel(sides: Sequence[Answers], k: int) -> Prepared:
    known = [multilabel.as_multilabel(side.said, side.truth, side.unknown) for side in sides]
    parts = [multilabel.parts(one, side.threshold) for one, side in zip(known, sides, strict=True)]
    return len(known[0][0]), parts, tuple(multilabel.label_rows(known[0], sides[0].threshold))


def _regression(sides: Sequence[Answers], k: int) -> Prepared:
    # A variance that only one of two states cannot be compared; each is then judged without.
    stated = all(side.variance is not None for side in sides)
    numbers = [regression.as_numbers(s.said, s.truth, s.variance if stated else None) for s in sides]
    return len(numbers[0].truth), [regression.parts(one) for one in numbers], ()


def _retrieval(sides: Sequence[Answers], k: int) -> Prepared:
    rows = [retrieval.as_rows(side.queries, side.said, side.truth) for side in sides if side.queries is not None]
    return rows[0].queries, [retrieval.parts(one, k) for one in rows], ()


_PARTS: Mapping[str, Callable[[Sequence[Answers], int], Prepared]] = {
    "multilabel": _multilabel, "regression": _regression, "retrieval": _retrieval,
}  # fmt: skip


def _classification(sides: Sequence[Answers], resamples: int) -> Verdict:
    classes = sides[0].said.shape[1]
    truth = metrics.as_labels(sides[0].truth, classes)
    logits = [metrics.as_answers(_ALONE, side.said, truth.size, classes) for side in sides]
    named = any(side.named for side in sides)
    parts = [_class_parts(one, truth, side, named) for one, side in zip(logits, sides, strict=True)]
    found = bootstrap(parts, truth.size, strata=truth, resamples=resamples)
    levels = []
    for one, side, intervals in zip(logits, sides, found, strict=False):
        values = _class_values(one, truth, side, named)
        levels.append({name: intervals.get(name, _single(value, truth.size)) for name, value in values.items()})
        levels[-1]["accuracy"] = wilson(values["accuracy"], truth.size)
    rows = tuple(_class_rows(logits[0], truth, named))
    if len(sides) == 1:
        return Verdict(truth.size, tuple(levels), rows=rows)
    right = [metrics.predictions(one) == truth for one in logits]
    compared = comparison.compare("first", {0: right[0]}, "second", {0: right[1]}, truth, resamples=resamples)
    accuracy = Estimate(**compared["difference"])
    differences = {"accuracy": accuracy if truth.size > 1 else _single(accuracy.value, 1)} | found[2]
    if not named and truth.size > 1:
        differences["ece"] = _with_value(ece_difference([logits[0]], [logits[1]], truth, resamples))
    shared = {name: one for name, one in differences.items() if name in levels[0] and name in levels[1]}
    decisions = _decisions(FORMS["classification"], shared)
    return Verdict(truth.size, tuple(levels), shared, decisions, compared["p"], rows)


def _with_value(found: Estimate) -> Estimate:
    """Two models that hardly differ have resamples that are nearly all alike, and centring may leave the value out."""
    ends = [end for end in (found.ci_low, found.ci_high, found.value) if end is not None]
    return replace(found, ci_low=min(ends), ci_high=max(ends))


def _single(value: float, n: int) -> Estimate:
    return Estimate(value, None, None, n, 1, "single run")


def _class_values(logits: Floats, truth: Ints, side: Answers, named: bool) -> dict[str, float]:
    """Every metric that stands in a report and needs no teacher."""
    measured = metrics.measure(logits, truth, logits)  # its own teacher: what compares the two is left out
    if named:
        return {name: measured[name] for name in _COUNTED}
    areas = ranking.auc_by_class(logits, truth)
    found = {name: value for name, value in measured.items() if name not in _OF_TEACHERS}
    return found | ranking.measure(logits, truth, areas) | calibration.measure(logits, truth, side.scale)


def _class_parts(logits: Floats, truth: Ints, side: Answers, named: bool) -> list[Part]:
    """What rows decide alone, under weights that keep the sizes of the classes."""
    one = np.ones(truth.size)
    counts = np.bincount(truth, minlength=logits.shape[1])
    right = (metrics.predictions(logits) == truth).astype(np.float64)
    even = truth.size / (np.count_nonzero(counts) * counts[truth])  # every class as heavy as every other
    columns = {"macro_recall": (right * even, one)}
    if named:
        return [ratios(columns)]
    rows = np.arange(truth.size)
    log_p = metrics.log_probabilities(logits)
    away = np.exp(log_p)
    away[rows, truth] -= 1.0
    columns |= {"nll": (-log_p[rows, truth], one), "brier": (np.square(away).sum(axis=1), one)}
    if side.scale is not None:
        columns["nll_scaled"] = (-metrics.log_probabilities(logits / side.scale.value)[rows, truth], one)
    columns |= ranking.gain_columns(logits, truth)
    present = truth[:, None] == np.arange(logits.shape[1])
    odds = ranking.log_odds(logits)
    known = (np.where(np.isfinite(odds), odds, 0.0), present, np.ones_like(present))  # +inf: the only class there is
    return [ratios(columns), _macro_auc(multilabel.areas(known))]


def _macro_auc(areas: Part) -> Part:
    return Part(lambda weights: {"macro_auc": areas.at(weights)["macro_auc"]}, areas.width)


def _class_rows(logits: Floats, truth: Ints, named: bool) -> list[dict[str, Any]]:
    """Recall, precision, F1 and AUC of every class; None where not defined."""
    counts = metrics.confusion(logits, truth)
    marks = {"recall": metrics.recalls(counts), "precision": metrics.precisions(counts), "f1": metrics.f1s(counts)}
    if not named:
        marks["auc"] = ranking.auc_by_class(logits, truth)
    return [
        {"class": number, "n": int(n)}
        | {mark: None if np.isnan(values[number]) else float(values[number]) for mark, values in marks.items()}
        for number, n in enumerate(counts.sum(axis=1))
    ]
