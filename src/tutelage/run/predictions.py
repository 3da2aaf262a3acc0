"""Predictions that any tool saved, scored without a model: one file, or one against another, example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError, GateError, InputError, nearest
from tutelage.evaluation.calibration import fit_temperature
from tutelage.evaluation.forms import FORMS, Verdict, improvement, judge
from tutelage.evaluation.metrics import as_labels
from tutelage.evaluation.multilabel import best_threshold
from tutelage.evaluation.retrieval import AT
from tutelage.report import numbers
from tutelage.run.predicted import Predictions, about, read_predictions

__all__ = ["Asked", "Drop", "Scored", "evaluate_predictions"]

_FEW = 30


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """How predictions are to be scored."""

    task: str | None = None  # classification, multilabel, regression or retrieval; None: as the arrays suggest
    val: Path | str | None = None  # validation predictions of the same model: for a threshold, or a temperature
    against_val: Path | str | None = None  # those of the model that it is held against
    metric: str | None = None  # that the gate looks at; None: the form's own
    max_drop: float | None = None  # how much worse it may be: percentage points for shares, else the metric's unit
    k: int = AT  # for retrieval: how many items are looked at
    resamples: int = 10_000


@final
@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse the first may be. It fails where it is shown to be worse than that: `high` < −max_drop."""

    metric: str
    max_drop: float
    high: float  # upper end of the 95 % interval of the improvement, in the unit of `max_drop`

    @property
    def passed(self) -> bool:
        return self.high >= -self.max_drop

    def text(self) -> str:
        word = "passed" if self.passed else "failed"
        end = f"the interval's upper end is {self.high:+.4g}, allowed is -{self.max_drop:g}"
        return numbers.minus(f"gate {word} ({self.metric}): {end}")


@final
@dataclass(frozen=True, slots=True)
class Scored:
    """What a file of predictions is worth, and how it stands against another one."""

    task: str
    file: str
    against: str | None
    metric: str  # that leads
    verdict: Verdict
    settings: Mapping[str, float]  # thresholds or temperatures, and k
    notices: tuple[str, ...]
    gate: Drop | None = None

    def check(self) -> None:
        """Nothing where the gate was passed, or none was set.

        Raises:
            GateError: it was not passed.
        """
        if self.gate is not None and not self.gate.passed:
            raise GateError(
                f"{self.file} loses too much against {self.against}",
                given=self.gate.text(),
                expected=f"at most {self.gate.max_drop:g} worse in {self.gate.metric}",
            )

    def to_json(self) -> dict[str, Any]:
        form, verdict = FORMS[self.task], self.verdict
        levels = [{name: one.to_json() for name, one in side.items()} for side in verdict.metrics]
        found: dict[str, Any] = {
            "task": self.task,
            "file": self.file,
            "units": verdict.units,
            "unit": form.unit,
            "metric": self.metric,
            "metrics": levels[0],
            "rows": [dict(row) for row in verdict.rows],
            "settings": dict(self.settings),
            "methods": {name: form.methods[name] for name in levels[0]},
            "notices": list(self.notices),
            "against": None,
        }
        if self.against is not None:
            found["against"] = {
                "file": self.against,
                "metrics": levels[1],
                "differences": {
                    name: one.to_json() | {"decision": verdict.decisions[name]}
                    for name, one in verdict.differences.items()
                },
                "decision": verdict.decisions.get(self.metric),
                "p": verdict.p,
                "gate": None if self.gate is None else asdict(self.gate) | {"passed": self.gate.passed},
            }
        return found

    def summary(self) -> str:
        """A table for a person."""
        lines = _alone(self) if self.against is None else _held_against(self)
        lines += [f"  notice: {text}" for text in self.notices]
        return "\n".join([*lines, *([] if self.gate is None else [f"  {self.gate.text()}"])])


def evaluate_predictions(file: Path | str, against: Path | str | None = None, asked: Asked | None = None) -> Scored:
    """Score saved predictions, alone or against others about the same examples.

    Args:
        file: an .npz or .csv with ids, answers and truth; docs/evaluation.md says which names are read.
        against: predictions that it is held against; rows meet by their ids. Differences are file − against.
        asked: the form of the task and other settings; by default the arrays say what they are.

    Raises:
        InputError: a file is not there, or an option cannot be met.
        DataError: an array is missing or has the wrong shape, or the two are not about the same examples.
        DamagedError: a file cannot be read.
    """
    how = Asked() if asked is None else asked
    _check(how, against)
    sides = [read_predictions(file, how.task)]
    if against is not None:
        sides.append(read_predictions(against, sides[0].task))
    task = sides[0].task
    form = FORMS[task]
    metric = _metric(how, task)
    sides = [_tuned(side, val) for side, val in zip(sides, (how.val, how.against_val), strict=False)]
    notices = [text for side in sides for text in side.notices]
    if len(sides) == 2:
        *sides, more = _matched(*sides)
        notices += more
    verdict = judge([side.answers for side in sides], k=how.k, resamples=how.resamples)
    if verdict.units < _FEW:
        notices.append(f"{numbers.plural(verdict.units, form.unit)}: too few for intervals to be trusted")
    gate = None if how.max_drop is None else _gate(task, metric, float(how.max_drop), verdict)
    return Scored(
        task, str(file), None if against is None else str(against), metric, verdict, _settings(sides, how.k),
        tuple(dict.fromkeys(notices)), gate,
    )  # fmt: skip


def _gate(task: str, metric: str, max_drop: float, verdict: Verdict) -> Drop:
    found = verdict.differences.get(metric)
    high = None if found is None else improvement(FORMS[task], metric, found).ci_high
    if high is None:
        judged = [name for name, decision in verdict.decisions.items() if decision is not None]
        raise DataError(
            f"`{metric}` has no interval here, so no gate can judge it",
            fix=f"choose one that has: --metric {', '.join(judged)}" if judged else "use more than one example",
        )
    return Drop(metric, max_drop, high * _scale(task, metric))


def _check(how: Asked, against: Path | str | None) -> None:
    if how.task is not None and how.task not in FORMS:
        raise InputError(f"no task `{how.task}`", fix=nearest(how.task, FORMS))
    if against is None and (how.max_drop is not None or how.against_val is not None):
        raise InputError("nothing to hold the predictions against", fix="name the other file: --against OTHER")
    if how.max_drop is not None and not 0 <= how.max_drop < float("inf"):
        raise InputError("this drop cannot be allowed", given=how.max_drop, expected="a number of at least 0")
    if against is not None and (how.val is None) != (how.against_val is None):
        raise InputError(
            "only one of the two would be tuned on validation predictions, and look better for it",
            expected="--val and --against-val, or neither",
        )
    if how.resamples < 100 or how.k < 1:
        raise InputError(
            "an option is out of range", given=f"{how.resamples} resamples, k = {how.k}",
            expected="resamples ≥ 100, k ≥ 1",
        )  # fmt: skip


def _metric(how: Asked, task: str) -> str:
    """The metric that decides: the one that was asked for, or the form's own."""
    form = FORMS[task]
    metric = form.main if how.metric is None else how.metric
    if metric not in form.methods or not form.sign(metric):
        raise InputError(
            f"`{metric}` is no metric of {task} with a better direction",
            fix=nearest(metric, [name for name in form.methods if form.sign(name)]),
        )
    return metric


def _tuned(side: Predictions, val: Path | str | None) -> Predictions:
    """With the threshold or the temperature that fits the model's validation predictions."""
    if val is None:
        if side.task == "multilabel":
            text = f"threshold {side.answers.threshold:g}, not tuned: validation predictions (--val) would choose it"
            return replace(side, notices=(*side.notices, text))
        return side
    if side.task not in ("classification", "multilabel") or side.answers.named:
        raise InputError(f"nothing is tuned on validation predictions for these: {side.name}", fix="leave out --val")
    other = read_predictions(val, side.task)
    if other.answers.said.shape[1] != side.answers.said.shape[1] or other.answers.named:
        raise DataError(
            f"the validation predictions do not fit {side.name}", where=other.name,
            given=f"{other.answers.said.shape[1]} columns", expected=f"{side.answers.said.shape[1]} columns of scores",
        )  # fmt: skip
    answers = other.answers
    with about(val):
        if side.task == "multilabel":
            threshold = best_threshold(answers.said, answers.truth, answers.unknown)
            return replace(side, answers=replace(side.answers, threshold=threshold))
        found = fit_temperature(answers.said, as_labels(answers.truth, answers.said.shape[1]))
    notices = side.notices if found else (*side.notices, f"no temperature fits the answers in {other.name}")
    return replace(side, answers=replace(side.answers, scale=found), notices=notices)


def _settings(sides: list[Predictions], k: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for side, prefix in zip(sides, ("", "against_"), strict=False):
        if side.task == "multilabel":
            found[f"{prefix}threshold"] = side.answers.threshold
        if side.answers.scale is not None:
            found[f"{prefix}temperature"] = side.answers.scale.value
    return found | ({"k": float(k)} if sides[0].task == "retrieval" else {})


# ---- two files -------------------------------------------------------------------------------------------------------


def _matched(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions, list[str]]:
    """Both in the order of their ids, after a look whether they are about the same examples."""
    for side in (first, second):
        if side.ids is None:
            raise DataError(f"{side.name} has no ids, so nothing can be compared row by row", expected="ids, (N,)")
    codes = _codes(np.asarray(first.ids), np.asarray(second.ids))
    if first.answers.queries is not None:  # an item may stand under several queries
        queries = _codes(first.answers.queries, np.asarray(second.answers.queries))
        codes = queries * (int(codes.max()) + 1) + codes
    ours, theirs = np.split(codes, [len(first.answers.truth)])
    _, which = np.unique(codes, return_inverse=True)
    counts = [np.bincount(part, minlength=int(which.max()) + 1) for part in np.split(which.ravel(), [ours.size])]
    new, missing = (int(np.maximum(a - b, 0).sum()) for a, b in (counts, reversed(counts)))
    if new or missing:
        raise DataError(
            "the files are about different examples, so their numbers cannot be compared",
            given=f"{new:,} of {ours.size:,} ids only in {first.name}, {missing:,} of {theirs.size:,} only in "
            f"{second.name}; {int(np.minimum(*counts).sum()):,} in both",
            expected="the same ids in both, in any order",
        )
    twice = int((counts[0] > 1).sum())
    notices = []
    if twice:
        word = "ids stand" if twice > 1 else "id stands"
        notices.append(f"{twice:,} {word} more than once; such rows met in the order of their files")
    width = max(side.answers.said.shape[-1] for side in (first, second))
    first, second = (_widened(side, width) for side in (first, second))
    sides = [_sorted(side, np.argsort(code, kind="stable")) for side, code in ((first, ours), (second, theirs))]
    _same_truth(*sides)
    if (first.answers.variance is None) != (second.answers.variance is None):
        notices.append("only one of the files states variances; both were judged without")
    return sides[0], sides[1], notices


def _codes(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers for the values of a column of both files, one after the other: the same for the same value."""
    both = [first, second]
    if first.dtype.kind != second.dtype.kind:  # numbers from one tool, text from another
        both = [one.astype(str) for one in both]
    return np.unique(np.concatenate(both), return_inverse=True)[1].astype(np.int64)


def _widened(side: Predictions, width: int) -> Predictions:
    """Named classes know only those that occur; the other file may know more."""
    said = side.answers.said
    if not side.answers.named or said.shape[1] >= width:
        return side
    wider = np.pad(said, ((0, 0), (0, width - said.shape[1])))
    return replace(side, answers=replace(side.answers, said=wider))


def _sorted(side: Predictions, order: NDArray[np.intp]) -> Predictions:
    old = side.answers
    rows: dict[str, Any] = {
        name: None if getattr(old, name) is None else getattr(old, name)[order]
        for name in ("said", "truth", "unknown", "variance", "queries")
    }
    return replace(side, ids=None if side.ids is None else side.ids[order], answers=replace(old, **rows))


def _same_truth(first: Predictions, second: Predictions) -> None:
    a, b = first.answers, second.answers
    if a.said.shape != b.said.shape:
        raise DataError("the files have different columns", given=f"{b.said.shape[1:]}", expected=f"{a.said.shape[1:]}")
    masks = [np.zeros(one.truth.shape, dtype=np.bool_) if one.unknown is None else one.unknown for one in (a, b)]
    exact = first.task != "regression"
    same = a.truth == b.truth if exact else np.isclose(a.truth, b.truth, rtol=1e-6, atol=0.0)
    differ = (masks[0] != masks[1]) | (~same & ~masks[0])
    count = int(differ.reshape(len(differ), -1).any(axis=1).sum())
    if count:
        raise DataError(
            "the files disagree about what is true",
            given=f"{count:,} of {len(differ):,} rows of {first.name} and {second.name} with the same id",
            expected="the same labels or targets in both, and the same ones unknown",
        )


# ---- words -----------------------------------------------------------------------------------------------------------

_WORDS = {"gain": "better", "worse": "worse", "none": "no measurable difference", None: ""}


def _scale(task: str, name: str) -> float:
    return 1.0 if name in FORMS[task].plain else 100.0


def _written(task: str, name: str, value: float) -> str:
    return numbers.percent(value) if _scale(task, name) > 1 else numbers.significant(value, 4)


def _signed(value: float, digits: int) -> str:
    """With its sign, but a zero without one."""
    text = f"{value:+.{digits}f}"
    return numbers.minus(text if float(text) else text.lstrip("+-"))


def _alone(found: Scored) -> list[str]:
    form, verdict = FORMS[found.task], found.verdict
    lines = [f"{found.file}: {found.task}, {_count(found)}{_how(found)}"]
    levels = verdict.metrics[0]
    for name in filter(levels.__contains__, form.methods):
        one = levels[name]
        scale = _scale(found.task, name)
        least = 1 if scale > 1 else 2
        spread = "" if one.ci_low is None else f"  (95 % CI {numbers.interval(one.to_json(), scale, least)})"
        lines.append(f"  {name:<22}{_written(found.task, name, one.value):>10}{spread}")
    return [*lines, f"  {found.metric}: {form.methods[found.metric]}"]


def _held_against(found: Scored) -> list[str]:
    verdict = found.verdict
    first, second = verdict.metrics
    word = _WORDS[verdict.decisions.get(found.metric)] or "no decision"
    lines = [
        f"{found.file} against {found.against}: {word} ({found.metric})",
        f"  {found.task}, {_count(found)}, met by id{_how(found)}",
    ]
    for name in filter(verdict.differences.__contains__, FORMS[found.task].methods):
        one, scale = verdict.differences[name], _scale(found.task, name)
        levels = f"{_written(found.task, name, first[name].value):>10} against "
        levels += f"{_written(found.task, name, second[name].value):<10}"
        digits = numbers.decimals(one.to_json(), scale, 1 if scale > 1 else 2, 3 if scale > 1 else 6)
        change = f"{_signed(one.value * scale, digits)}{' pp' if scale > 1 else ''}"
        if one.ci_low is not None and one.ci_high is not None:
            change += f" (95 % CI {_signed(one.ci_low * scale, digits)}…{_signed(one.ci_high * scale, digits)})"
        lines.append(f"  {name:<22}{levels} {change:<38} {_WORDS[verdict.decisions[name]]}".rstrip())
    if verdict.p is not None:
        lines.append(f"  {numbers.p_value(verdict.p)} for the accuracy (McNemar, exact)")
    return [*lines, "  differences are first − second, each judged alone"]


def _count(found: Scored) -> str:
    if found.task == "retrieval":
        return f"{found.verdict.units:,} {'query' if found.verdict.units == 1 else 'queries'}"
    return numbers.plural(found.verdict.units, "example")


def _how(found: Scored) -> str:
    said = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.settings.items())
    return f", {said}" if said else ""
