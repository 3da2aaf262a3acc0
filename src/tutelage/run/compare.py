"""Two finished runs side by side, from their saved answers alone: no model is built, nothing is asked again.

The first arm is the one that others are held against; every difference is second − first. Rows of the test part meet by
their ids. Where both arms have a seed it makes a pair, and with two pairs or more the paired t by seed decides, as in a
report. Where no seed is common, seeds make no pairs (Welch's t), but the examples still do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import GateError, InputError
from tutelage.evaluation import comparison, metrics
from tutelage.evaluation.differences import bootstrap_rows, ece_difference, welch
from tutelage.evaluation.significance import Estimate, mcnemar, minimum_detectable, paired_bootstrap
from tutelage.report import numbers
from tutelage.run.saved import Side, read_side, same_questions

__all__ = ["Comparison", "Gate", "compare_many", "compare_runs"]


@final
@dataclass(frozen=True, slots=True)
class Gate:
    """How much accuracy the second may lose against the first, and how that came out. All in percentage points.

    With `low` and `high` the ends of the two-sided 95 % interval of second − first (the one that decides): it fails if
    `high` < −max_drop, that is, where the second is shown to be worse than allowed; a strict one fails unless
    `low` > −max_drop, that is, where the second is not shown to be good enough.
    """

    max_drop: float
    strict: bool
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low > -self.max_drop if self.strict else self.high >= -self.max_drop

    def text(self) -> str:
        kind = "strict: shown to be no worse than" if self.strict else "not shown to be worse than"
        held = f"the interval's ends are {self.low:+.2f} and {self.high:+.2f}, allowed is −{self.max_drop:g}"
        return f"gate {'passed' if self.passed else 'failed'} ({kind} {self.max_drop:g} pp): {numbers.minus(held)}"


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """The second arm against the first, on the same test part. Differences are second − first."""

    first: str
    second: str
    examples: int
    seeds: tuple[int, ...]  # that make pairs; none where the seeds differ
    levels: Mapping[str, Mapping[str, float]]  # accuracy, nll, ece of `first` and `second`, means over the seeds used
    accuracy: Mapping[str, Any]  # as one of `comparisons` in a report, with p_adjusted
    nll: Estimate  # nats
    ece: Estimate
    per_class: tuple[Mapping[str, Any], ...]  # {class, n, first, second, change, p_adjusted, changed}
    agreement: float  # share of examples for which both name the same class
    notices: tuple[str, ...]
    compared: int = 1  # how many were held against the first, for Holm
    gate: Gate | None = None

    def check(self) -> None:
        """Nothing where the gate was passed, or none was set.

        Raises:
            GateError: it was not passed.
        """
        if self.gate is not None and not self.gate.passed:
            raise GateError(
                f"{self.second} loses too much accuracy against {self.first}"
                if not self.gate.strict
                else f"{self.second} is not shown to keep the accuracy of {self.first}",
                given=self.gate.text(),
                expected=f"a drop of at most {self.gate.max_drop:g} pp",
            )

    def to_json(self) -> dict[str, Any]:
        found = asdict(self) | {"decision": self.accuracy["decision"], "per_class": [dict(r) for r in self.per_class]}
        found["gate"] = None if self.gate is None else asdict(self.gate) | {"passed": self.gate.passed}
        return found

    def summary(self) -> str:
        """A few plain lines for a person."""
        return "\n".join([*_headline(self), *_details(self)])


def compare_runs(
    first: Path | str,
    second: Path | str,
    *,
    max_drop: float | None = None,
    strict: bool = False,
    resamples: int = 10_000,
) -> Comparison:
    """Hold one arm of a finished run against one of another run, or of the same.

    Args:
        first: a run's folder, or `folder:arm`; without an arm, the one that the run's report is about.
        second: likewise.
        max_drop: percentage points of accuracy that the second may lose; see `Gate`. `Comparison.check` raises.
        strict: whether the second must be shown to lose less than `max_drop`.
        resamples: of the bootstrap over test examples. NLL and ECE redraw whole rows, so a large test part gets fewer.

    Raises:
        InputError: no finished run, no such arm, twice the same arm, or an option out of range.
        DamagedError: a file is missing, or not what a run wrote.
        MismatchError: the two have different classes.
        DataError: they were judged on different test examples.
    """
    return compare_many(first, [second], max_drop=max_drop, strict=strict, resamples=resamples)[0]


def compare_many(
    first: Path | str,
    others: Sequence[Path | str],
    *,
    max_drop: float | None = None,
    strict: bool = False,
    resamples: int = 10_000,
) -> list[Comparison]:
    """Hold several arms against the first one; p-values are adjusted by Holm over all. Otherwise as `compare_runs`."""
    if max_drop is None and strict:
        raise InputError("a strict gate needs to know what is allowed", fix="set max_drop (--max-drop POINTS)")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise InputError("this drop cannot be allowed", given=max_drop, expected="0 … 100 percentage points")
    if not others or resamples < 100:
        raise InputError(
            "nothing to compare" if not others else "too few resamples for an interval",
            given=f"{len(others)} others, {resamples} resamples",
            expected="at least one other run, resamples ≥ 100",
        )
    reference = read_side(first)
    found: list[Comparison] = []
    origins = {reference.origin}
    for other in others:
        side = read_side(other)
        if side.origin in origins:
            raise InputError("the same arm of the same run twice", given=side.name, expected="different arms or runs")
        origins.add(side.origin)
        same_questions(reference, side)
        found.append(_compare(reference, side, resamples))
    done = []
    for one, adjusted in zip(found, comparison.adjust([dict(one.accuracy) for one in found]), strict=True):
        low, high = (100 * adjusted["difference"][end] for end in ("ci_low", "ci_high"))
        gate = None if max_drop is None else Gate(float(max_drop), strict, low, high)
        values = {name: getattr(one, name) for name in Comparison.__dataclass_fields__}
        done.append(Comparison(**values | {"accuracy": adjusted, "compared": len(found), "gate": gate}))
    return done


# ---- the comparison --------------------------------------------------------------------------------------------------


def _compare(first: Side, second: Side, resamples: int) -> Comparison:
    seeds = sorted(first.logits.keys() & second.logits.keys())
    notices = []
    if not seeds:
        notices.append("no seed is common: seeds make no pairs; examples still do, by the mean over each one's seeds")
    ours, theirs = ([one.logits[s] for s in seeds or sorted(one.logits)] for one in (second, first))
    for side in (first, second):
        left = sorted(side.logits.keys() - set(seeds)) if seeds else []
        if left:
            notices.append(f"left out of {side.name}, since only it has them: seed {', '.join(map(str, left))}")
    labels = first.labels
    strata = (labels > 0).astype(np.int64) if first.questions else labels  # few answers start at the same place
    if first.questions:
        notices.append("accuracy is exact match; NLL, ECE and agreement are of where answers start")
    right, before = (np.stack([one.right[s] for s in seeds or sorted(one.right)]) for one in (second, first))
    if seeds:
        rights = dict(zip(seeds, right, strict=True)), dict(zip(seeds, before, strict=True))
        found = comparison.compare(second.name, rights[0], first.name, rights[1], strata, resamples=resamples)
    else:
        found = _unpaired(second.name, right, first.name, before, strata, resamples)
    likelihood = np.mean([_nlls(one, labels) for one in ours], axis=0)
    likelihood -= np.mean([_nlls(one, labels) for one in theirs], axis=0)
    named = [[metrics.predictions(one) for one in side] for side in (ours, theirs)]
    pairs = list(zip(*named, strict=True)) if seeds else [(a, b) for a in named[0] for b in named[1]]
    levels = {
        key: {name: float(np.mean([metric(one, labels) for one in side])) for name, metric in _LEVELS.items()}
        for key, side in (("first", theirs), ("second", ours))
    }
    for key, shares in (("first", before), ("second", right)):
        levels[key]["accuracy"] = float(np.mean([one.mean() for one in shares]))
    classes = () if first.questions else _per_class(first.classes, labels, before.mean(axis=0), right.mean(axis=0))
    return Comparison(
        first=first.name,
        second=second.name,
        examples=int(labels.size),
        seeds=tuple(seeds),
        levels=levels,
        accuracy=found,
        nll=bootstrap_rows(float(likelihood.mean()), lambda rows: likelihood[rows].mean(axis=1), strata, resamples),
        ece=ece_difference(ours, theirs, labels, resamples),
        per_class=classes,
        agreement=float(np.mean([np.mean(a == b) for a, b in pairs])),
        notices=tuple(notices),
    )


def _nlls(logits: metrics.Floats, labels: metrics.Ints) -> metrics.Floats:
    return np.asarray(-metrics.log_probabilities(logits)[np.arange(labels.size), labels], dtype=np.float64)


_LEVELS: Mapping[str, Callable[[metrics.Floats, metrics.Ints], float]] = {
    "accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece,
}  # fmt: skip


def _unpaired(
    name: str, right: NDArray[np.bool_], against: str, before: NDArray[np.bool_], labels: metrics.Ints, resamples: int
) -> dict[str, Any]:
    """As `comparison.compare`, for seeds that make no pairs; counts are means over all pairs that could be made."""
    n, seeds = int(labels.size), (len(right), len(before))
    by_example = paired_bootstrap(right, before, labels, resamples=resamples)
    by_seed, p = welch(right.mean(axis=1).tolist(), before.mean(axis=1).tolist(), n)
    share, was = right.mean(axis=0), before.mean(axis=0)
    gained, lost = float((share * (1 - was)).sum()), float((was * (1 - share)).sum())
    method = "Welch's t by seed"
    if p is None and seeds == (1, 1):
        p, method = mcnemar(round(gained), round(lost)), "McNemar, exact"
    elif p is None:
        p = _per_class(["all"], np.zeros(n, dtype=np.int64), was, share)[0]["p_adjusted"]
        method = "t over test examples"
    deciding = by_seed or by_example
    return {
        "name": name,
        "against": against,
        "basis": "examples" if by_seed is None else "seeds",
        "decision": comparison.decide(deciding),
        "difference": deciding.to_json(),
        "by_seed": None if by_seed is None else by_seed.to_json(),
        "by_example": by_example.to_json(),
        "per_seed": [],
        "p": p,
        "p_method": method,
        "newly_right": gained,
        "newly_wrong": lost,
        "minimum_detectable": minimum_detectable((gained + lost) / n, n),
    }


def _per_class(
    classes: Sequence[str], labels: metrics.Ints, before: metrics.Floats, right: metrics.Floats
) -> tuple[dict[str, Any], ...]:
    """Recall of every class on both sides; p by Student's t over examples, adjusted by Benjamini and Hochberg."""
    # `by_class` also wants a teacher, to say what distilling cost; here the first arm stands in, and it is left out.
    sides = {"first": before, "second": right, "teacher": before}
    rows = comparison.by_class(classes, labels, sides, headline="second", baseline="first")
    return tuple(
        {"class": row["class"], "n": row["n"], "first": row["recall"]["first"], "second": row["recall"]["second"],
         "change": row["change"], "p_adjusted": row["p_adjusted"], "changed": row["changed"]}
        for row in rows
    )  # fmt: skip


# ---- words -----------------------------------------------------------------------------------------------------------

_WORDS = {"gain": "better", "worse": "worse", "none": "no measurable difference"}


def _headline(found: Comparison) -> list[str]:
    accuracy = found.accuracy
    difference, single = accuracy["difference"], accuracy["basis"] == "examples"
    seeds = f"seeds {', '.join(map(str, found.seeds))}, in pairs" if found.seeds else "no seed in common"
    if single:
        seeds = f"single run, seed {found.seeds[0]}" if found.seeds else "single run on at least one side"
    p = numbers.p_value(accuracy["p"])
    if found.compared > 1:
        p += f", {numbers.p_value(accuracy['p_adjusted'])} by Holm over {found.compared} comparisons"
    measure = "accuracy" if found.per_class else "exact match"
    levels = [numbers.percent(found.levels[side]["accuracy"]) for side in ("second", "first")]
    lines = [
        f"{found.second} against {found.first}: {_WORDS[accuracy['decision']]}",
        f"  on {numbers.plural(found.examples, 'test example')}, {seeds}",
        f"  {measure}  {levels[0]} against {levels[1]}: "
        f"{numbers.points(difference['value'], numbers.decimals(difference))} "
        f"(95 % CI {numbers.points_interval(difference)}, {difference['method']})",
        f"            {p} ({accuracy['p_method']})",
    ]
    if single:
        lines.append("            over test examples only: the luck of another training is not in this interval")
    else:
        lines.append(f"            over test examples alone: 95 % CI {numbers.points_interval(accuracy['by_example'])}")
    detectable = numbers.points(accuracy["minimum_detectable"], 2).lstrip("+")
    return [*lines, f"            smallest difference that so many examples can show: {detectable}"]


def _details(found: Comparison) -> list[str]:
    before, after = found.levels["first"], found.levels["second"]
    nll, ece = found.nll, found.ece
    low, high = (f"{0.0 if end is None else end:+.4f}" for end in (nll.ci_low, nll.ci_high))
    lines = [
        numbers.minus(
            f"  NLL       {after['nll']:.4f} against {before['nll']:.4f}: {nll.value:+.4f} (95 % CI {low}…{high})"
        ),
        f"  ECE       {numbers.percent(after['ece'])} against {numbers.percent(before['ece'])}: "
        f"{numbers.points(ece.value)} (95 % CI {numbers.points_interval(ece.to_json())})",
        f"  agreement {numbers.percent(found.agreement)} of the examples get the same class from both",
    ]
    counted = [row for row in found.per_class if row["change"] is not None]
    worst = min(counted, key=lambda row: row["change"], default=None)
    if worst is None:  # answers are places, and no classes
        pass
    elif worst["change"] < 0:
        doubt = "" if worst["changed"] else ", which may be chance"
        lines.append(
            f"  worst class  ‘{worst['class']}’ {numbers.points(worst['change'])} in recall "
            f"({numbers.plural(worst['n'], 'example')}; {numbers.p_value(worst['p_adjusted'])} over all classes{doubt})"
        )
    else:
        lines.append("  worst class  none loses recall")
    lines += [f"  notice: {text}" for text in found.notices]
    return [*lines, *([] if found.gate is None else [f"  {found.gate.text()}"])]
