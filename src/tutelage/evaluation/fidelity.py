"""How much of the teacher a student took over, beyond what the same student comes to share with it anyway.

Two good models agree wherever both are right, so agreement says little until the same student without a teacher stands
beside it. What tells imitation from learning is where the teacher is wrong: a student that gives the teacher's wrong
answer more often than its baseline does has copied errors ("negative transfer"). And agreement is no accuracy: students
with more of it may be less often right (Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021).

Shapes: N examples · C classes · S seeds · R resamples. Logits are finite float64, as `metrics.as_logits` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError, nearest
from tutelage.evaluation import metrics
from tutelage.evaluation.drawn import check, pooled
from tutelage.evaluation.metrics import Floats, Ints, equal_mass
from tutelage.evaluation.ranking import LEAST_CLASSES_FOR_TOP, TOP
from tutelage.evaluation.significance import LEVEL, Estimate, over_seeds, paired_by_seed

TEACHER = "teacher"
CONFIDENCE_BINS = 10
LEAST_FOR_INTERVAL = 10  # examples of a kind; fewer of them give no bootstrap interval worth printing
_MOST_CELLS = 20_000_000  # counts drawn for one interval: some two seconds
_LEAST_RESAMPLES = 1000
METHODS = {
    **{name: metrics.METHODS[name] for name in ("agreement", "divergence", "copied_errors")},
    "agreement_right": "agreement on the examples that the teacher gets right",
    "variation": "mean total variation distance of teacher and student at temperature 1: half the summed difference of "
    "their probabilities, 0 to 1",
    "top5_overlap": f"mean share of the teacher's {TOP} largest logits that are among the student's {TOP} largest; of "
    "equal logits the first class counts as larger",
    "agreement_by_confidence": f"agreement in {CONFIDENCE_BINS} equal-mass bins of the teacher's confidence, seeds "
    "pooled, with Wilson's intervals",
}

Answers = Mapping[str, Sequence[Floats]]  # model -> (N, C) for each seed
Estimates = dict[str, Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class _Exam:
    """The questions that all models were asked, and how the teacher answered them."""

    part: str  # test or training, for the names of methods
    truth: Ints
    teacher: Floats
    said: Ints
    wrong: NDArray[np.bool_]
    parts: Sequence[Ints]  # rows by the teacher's confidence, from least to most

    @classmethod
    def of(cls, part: str, logits: Answers, truth: Ints) -> _Exam:
        teacher = logits[TEACHER][0]
        said = metrics.predictions(teacher)
        parts, _ = equal_mass(metrics.top_log_odds(teacher), np.zeros(truth.size), CONFIDENCE_BINS)
        return cls(part, truth, teacher, said, said != truth, parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Pupil:
    """One arm, measured against the teacher."""

    seeds: Sequence[int]
    agrees: NDArray[np.bool_]  # (S, N)
    distances: Mapping[str, Sequence[float]]  # name -> (S,)


def fidelity(
    logits: Answers,
    truth: Ints,
    *,
    against: Mapping[str, str],
    train: tuple[Answers, Ints] | None = None,
    resamples: int = 10_000,
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """How every distilled arm and its baseline agree with the teacher, ready for JSON.

    Returns:
        {methods, arms [{name, against, test P, train P | null}]}. P is {n, teacher_errors, agreement, agreement_right,
        copied_errors, divergence, variation, top5_overlap, by_confidence}:

        * agreement, agreement_right and copied_errors (the agreement where the teacher is wrong) are {arm E, baseline
          E, basis: seeds|examples, direction: above|below|none, difference E (the one that decides), by_seed E|null,
          by_example E}; null where the teacher has no such answer.
        * divergence (nats), variation and top5_overlap (null below 10 classes) are {arm E, baseline E, difference E}.
        * by_confidence is a list of at most 10 bins {n, low, high, confidence, teacher_accuracy, arm E, baseline E}
          from the teacher's least to its most confident answers.

    Args:
        logits: model -> one (N, C) array per seed; `teacher` has one.
        truth: (N,) class numbers.
        against: distilled arm -> its baseline arm.
        train: the same for a sample of the training part; arms that are missing there get null.
        resamples: of the bootstrap over examples; fewer, but at least 1,000, where very many classes make it slow.
        seeds: model -> the seeds of its arrays, which pair arm and baseline; None where both have the same ones in the
            same order.

    Raises:
        InputError: a model that `against` names is missing, answers do not fit the labels or the teacher's classes, or
            an arm and its baseline share no seed.
    """
    _known(logits, against)
    test = _part("test", logits, truth, against, resamples, seeds)
    trained: dict[str, Any] = {}
    if train is not None and TEACHER in train[0]:
        both = {name: other for name, other in against.items() if name in train[0] and other in train[0]}
        trained = _part("training", *train, both, resamples, seeds)
    arms = [
        {"name": name, "against": other, "test": test[name], "train": trained.get(name)}
        for name, other in against.items()
    ]
    return {"methods": dict(METHODS), "arms": arms}


def _known(logits: Answers, against: Mapping[str, str]) -> None:
    for name in (TEACHER, *against, *against.values()):
        if name not in logits:
            raise InputError(
                f"there are no answers of `{name}` to compare", given=", ".join(logits), fix=nearest(name, list(logits))
            )
    if len(logits[TEACHER]) != 1:
        raise InputError("fidelity is measured against one teacher", given=f"answers of {len(logits[TEACHER])}")


def _part(
    part: str,
    logits: Answers,
    truth: Ints,
    against: Mapping[str, str],
    resamples: int,
    seeds: Mapping[str, Sequence[int]] | None,
) -> dict[str, dict[str, Any]]:
    """Arm -> what it is on one part of the data."""
    needed = list(dict.fromkeys((*against, *against.values())))
    for name in (TEACHER, *needed):
        check(name, logits[name], truth)
    exam = _Exam.of(part, logits, truth)
    pupils: dict[str, _Pupil] = {}
    for name in needed:
        several = logits[name]
        numbers = list(range(len(several))) if seeds is None else list(seeds[name])
        if len(numbers) != len(several) or several[0].shape != exam.teacher.shape:
            raise InputError(
                f"answers of `{name}` do not fit the teacher's or its seeds",
                given=f"{len(several)} of shape {several[0].shape}, {len(numbers)} seeds",
                expected=f"shape {exam.teacher.shape} for every seed",
            )
        pupils[name] = _pupil(exam, several, numbers)
    return {name: _judged(exam, name, pupils[name], pupils[other], resamples) for name, other in against.items()}


def _pupil(exam: _Exam, several: Sequence[Floats], seeds: Sequence[int]) -> _Pupil:
    p = np.exp(metrics.log_probabilities(exam.teacher))
    distances = {
        "divergence": [metrics.divergence(one, exam.teacher) for one in several],
        "variation": [
            float(np.abs(np.exp(metrics.log_probabilities(one)) - p).sum(axis=1).mean() / 2) for one in several
        ],
    }
    if exam.teacher.shape[1] >= LEAST_CLASSES_FOR_TOP:
        first = largest(exam.teacher)
        distances["top5_overlap"] = [float((largest(one) & first).sum(axis=1).mean() / TOP) for one in several]
    return _Pupil(seeds, np.stack([metrics.predictions(one) == exam.said for one in several]), distances)


def largest(logits: Floats, k: int = TOP) -> NDArray[np.bool_]:
    """Which classes are among the k largest logits of their row, (N, C), k of them in each row.

    Of equal logits the first class counts as larger, as in `ranking.top_k_accuracy`.
    """
    least = -np.partition(-logits, k - 1, axis=1)[:, k - 1 : k]
    above, equal = logits > least, logits == least
    left = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (equal & (equal.cumsum(axis=1) <= left)))


def _judged(exam: _Exam, name: str, arm: _Pupil, baseline: _Pupil, resamples: int) -> dict[str, Any]:
    shared = sorted(set(arm.seeds) & set(baseline.seeds))
    if not shared:
        raise InputError(f"`{name}` and its baseline share no seed, so nothing can be paired", given=str(arm.seeds))
    ours, theirs = ([side.seeds.index(seed) for seed in shared] for side in (arm, baseline))
    by_example = paired_shares(arm.agrees[ours], baseline.agrees[theirs], exam.truth, exam.wrong, resamples=resamples)
    kinds = {"agreement": np.ones_like(exam.wrong), "agreement_right": ~exam.wrong, "copied_errors": exam.wrong}
    found: dict[str, Any] = {"n": int(exam.truth.size), "teacher_errors": int(exam.wrong.sum())}
    for kind, rows in kinds.items():
        found[kind] = None
        if rows.any():
            n = int(rows.sum())
            a, b = (side.agrees[:, rows].mean(axis=1).tolist() for side in (arm, baseline))
            by_seed = paired_by_seed([a[i] for i in ours], [b[i] for i in theirs], n)
            found[kind] = _sides(exam, a, b, n) | _difference(exam, by_seed, by_example[kind])
    for kind in ("divergence", "variation", "top5_overlap"):
        found[kind] = None
        if kind in arm.distances:
            x, y, n = arm.distances[kind], baseline.distances[kind], exam.truth.size
            gap = paired_by_seed([x[i] for i in ours], [y[i] for i in theirs], n)
            ends = {"arm": over_seeds(x, n), "baseline": over_seeds(y, n), "difference": gap}
            found[kind] = {side: estimate.to_json() for side, estimate in ends.items()}
    return found | {"by_confidence": _by_confidence(exam, arm, baseline)}


def _sides(exam: _Exam, arm: Sequence[float], baseline: Sequence[float], n: int) -> dict[str, Any]:
    """A share of both: with t over seeds, and of a single run with Wilson's interval over examples."""
    found = {}
    for side, shares in (("arm", arm), ("baseline", baseline)):
        estimate = over_seeds(shares, n) if len(shares) > 1 else _in(exam, pooled(shares[0], n, 1))
        found[side] = estimate.to_json()
    return found


def _difference(exam: _Exam, by_seed: Estimate, by_example: Estimate) -> dict[str, Any]:
    single = by_seed.seeds == 1
    by_example = _in(exam, by_example)
    deciding = by_example if single else by_seed
    return {
        "basis": "examples" if single else "seeds",
        "direction": direction(deciding),
        "difference": deciding.to_json(),
        "by_seed": None if single else by_seed.to_json(),
        "by_example": by_example.to_json(),
    }


def direction(difference: Estimate) -> str:
    """`above`, `below`, or `none` where the interval holds 0 or is not known."""
    if difference.ci_low is None or difference.ci_high is None:
        return "none"
    if difference.ci_low > 0:
        return "above"
    return "below" if difference.ci_high < 0 else "none"


def _in(exam: _Exam, estimate: Estimate) -> Estimate:
    return replace(estimate, method=estimate.method.replace("test examples", f"{exam.part} examples"))


def paired_shares(
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    labels: Ints,
    wrong: NDArray[np.bool_],
    *,
    resamples: int,
    seed: int = 0,
) -> Estimates:
    """Differences of seed-averaged agreement with percentile bootstrap intervals over examples, stratified by class.

    A resample draws all examples, so the number of the teacher's errors varies in it as it would in another test part,
    and classes in which the teacher errs once do not look as if they could not have turned out otherwise. Examples
    count only by their difference and by whether the teacher is wrong, so a resample is a row of counts of those few
    cells, drawn for each class from a multinomial: the same law as drawing rows.

    Args:
        ours, theirs: (S, N) where each agrees with the teacher.
        labels: (N,).
        wrong: (N,) where the teacher is.
        resamples: R.
        seed: of the draws.

    Returns:
        agreement, and agreement_right and copied_errors where there is an example of that kind; without ends where
        there are fewer than 10.
    """
    difference = (ours.mean(axis=0) - theirs.mean(axis=0)).round(12)
    values, which = np.unique(difference, return_inverse=True)
    width = 2 * values.size
    flat = labels * width + 2 * which + wrong
    counts = np.bincount(flat, minlength=(int(labels.max()) + 1) * width).reshape(-1, width)
    counts = counts[counts.any(axis=1)]
    taken = min(resamples, max(_LEAST_RESAMPLES, _MOST_CELLS // int((counts > 0).sum())))
    generator = np.random.default_rng(seed)
    totals = np.zeros((taken, width))
    for row in counts:
        held = np.flatnonzero(row)
        n = int(row.sum())
        totals[:, held] += generator.multinomial(n, row[held] / n, size=taken)
    method = f"paired bootstrap over test examples, by class, {taken} resamples"
    columns = {"agreement": slice(None), "agreement_right": slice(0, None, 2), "copied_errors": slice(1, None, 2)}
    found: Estimates = {}
    for kind, cells in columns.items():
        n = int(counts[:, cells].sum())
        if n:
            levels = np.repeat(values, 2)[cells]
            value = float(counts[:, cells].sum(axis=0) @ levels / n)
            if n < LEAST_FOR_INTERVAL:
                few = f"fewer than {LEAST_FOR_INTERVAL} examples, no interval"
                found[kind] = Estimate(value, None, None, n, int(ours.shape[0]), few)
            else:
                low, high = _ends(totals[:, cells], levels)
                found[kind] = Estimate(value, low, high, n, int(ours.shape[0]), method)
    return found


def _ends(totals: Floats, levels: Floats) -> tuple[float, float]:
    n = totals.sum(axis=1)
    held = n > 0
    low, high = np.quantile(totals[held] @ levels / n[held], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def _by_confidence(exam: _Exam, arm: _Pupil, baseline: _Pupil) -> list[dict[str, Any]]:
    odds = metrics.top_log_odds(exam.teacher)
    confidence = np.exp(metrics.log_probabilities(exam.teacher).max(axis=1))
    columns = np.stack([arm.agrees.mean(axis=0), baseline.agrees.mean(axis=0), ~exam.wrong], axis=1)
    _, shared = equal_mass(odds, columns, CONFIDENCE_BINS)
    rows = []
    for part in exam.parts:
        ours, theirs, right = shared[part].mean(axis=0).tolist()
        sides = [pooled(s, part.size * len(p.seeds), len(p.seeds)) for s, p in ((ours, arm), (theirs, baseline))]
        rows.append(
            {
                "n": int(part.size),
                "low": float(confidence[part].min()),
                "high": float(confidence[part].max()),
                "confidence": float(confidence[part].mean()),
                "teacher_accuracy": right,
                "arm": _in(exam, sides[0]).to_json(),
                "baseline": _in(exam, sides[1]).to_json(),
            }
        )
    return rows
