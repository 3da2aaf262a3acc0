"""Everything a run found out, reduced once to one JSON object. `report.json` is the truth; every page is a view of it.

Shares are fractions of 1, NLL and divergence nats, times milliseconds. `E` is an estimate, {value, ci_low, ci_high, n,
seeds, method}, whose ends are null where one run tells nothing about the spread.

    format          "tutelage-report-1"
    recipe          {name, text}        command, load_snippet   text
    versions        {name: version}     wall_seconds, deterministic, seeds [int], classes [name]
    answers         null with a live teacher; else of the store: key, rows, asked, seconds, bytes, codec, views
    baseline        name of the arm without a teacher, or null      headline  the distilled arm that the words are about
    data            {name, task, fingerprint, test_sha256, test_looks, shared_examples, majority_share,
                     totals {split: n}, counts [{class, <split>: n}]}
    models          teacher first, then arms in recipe order: {name, role: teacher|baseline|distilled|other, describes,
                     seeds, metrics {metric: E over seeds}, accuracy_items E, retained E|null, parameters, file_bytes,
                     parameter_ratio, size_ratio (null where either side is unknown, that is 0),
                     latency [{batch, p50_ms, ci_low_ms, ci_high_ms, p90_ms, n, threads,
                     speed_ratio}], runs [{name, seed, metrics, parameters, file_bytes, sha256, kept_epoch}]}
    comparisons     one per distilled arm against the baseline: {name, against, basis: seeds|examples,
                     decision: gain|none|worse, difference E (the one that decides), by_seed E|null, by_example E,
                     per_seed [{seed, difference}], p, p_method, p_adjusted, newly_right, newly_wrong,
                     minimum_detectable}
    summary         {retained E, parameter_ratio, size_ratio, speed_ratio, worst_class {class, n, cost},
                     ece {model: value}, forgotten {count, ids}, newly_right {count, ids}}
    per_class       [{class, n, recall {model: value}, precision, f1 and auc likewise (null where not defined),
                     interval E, cost, change, p_adjusted, changed}]
    confusion       {models [name], rates {name: C × C by row} | null beyond 20 classes, difference C × C | null,
                     pairs [{true, predicted, n, rates {name: value}}]}
    teacher_val_accuracy    number | null
    curves          {metric: {arm: [{epoch, mean, low, high, seeds}]}}      training  {arm: {seed: [record]}}
    pictures        [{true, said, png}], of forgotten examples, added by the run where they are images
    warnings        [{code, text}]      methods  {metric: how it was computed}

A metric that is not defined for every seed of a model, such as a temperature where the validation part has no best one,
is missing from the model's `metrics`; a report of an earlier version may lack any but the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import InputError
from tutelage.evaluation import calibration, metrics, ranking
from tutelage.evaluation.comparison import adjust, by_class, compare, mistakes
from tutelage.evaluation.curves import bands, clean
from tutelage.evaluation.flags import red_flags
from tutelage.evaluation.ranking import Marks
from tutelage.evaluation.significance import over_seeds, wilson

if TYPE_CHECKING:  # its module needs torch, and judging does not
    from tutelage.evaluation.cost import Latency

FORMAT = "tutelage-report-1"
_MOST_IDS = 50
Metrics = Mapping[str, float]  # name -> value, of one model and seed

METHODS = {**metrics.METHODS, **ranking.METHODS, **calibration.METHODS}


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One model as it was judged: what the file on disk answered on the test part, and what that file is.

    A teacher that is no file of ours has 0 parameters, 0 bytes and no sum: they are unknown, and so are their ratios.
    """

    logits: ArrayLike  # (N, C), rows in the order of the labels
    parameters: int
    file_bytes: int
    sha256: str
    seed: int | None = None  # None for a teacher that was given
    curve: Sequence[Mapping[str, float | None]] = ()  # one record per epoch: {"epoch": 1, "loss": …, "val_accuracy": …}
    kept_epoch: int | None = None  # which epoch's weights these are; None for the last
    val_logits: ArrayLike | None = None  # (V, C), what it answered on the validation part, to fit a temperature


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """The students of one arm, one for each seed."""

    name: str
    students: Sequence[Judged]
    distilled: bool  # whether its objective listens to the teacher
    describes: str = ""  # the objective in words


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Where the examples came from, and what may be wrong with them."""

    name: str
    counts: Mapping[str, Sequence[int]]  # split -> examples of every class
    fingerprint: str
    test_sha256: str
    test_looks: int = 1  # how often this run's folder asked for test answers of its models
    shared_examples: int = 0  # examples of validation or test whose content also stands in another split
    task: str = "image-classification"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How the numbers came about, and how to get them again."""

    recipe_name: str
    recipe_text: str
    command: str
    load_snippet: str  # Python that loads the student, from the folder of the run
    versions: Mapping[str, str]
    wall_seconds: float
    deterministic: bool
    answers: Mapping[str, Any] | None = None  # of the store that students read, or None where the teacher was live


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model of one seed: what it scored, and the file it is."""

    name: str
    seed: int | None
    metrics: Metrics
    parameters: int
    file_bytes: int
    sha256: str
    kept_epoch: int | None = None


def scorecard(
    *,
    labels: ArrayLike,
    ids: ArrayLike,
    classes: Sequence[str],
    teacher: Judged,
    arms: Sequence[Arm],
    data: DataFacts,
    run: RunFacts,
    latency: Mapping[str, Sequence[Latency]] | None = None,
    warnings: Sequence[str] = (),
    baseline: str = "scratch",
    teacher_val_accuracy: float | None = None,
    val_labels: ArrayLike | None = None,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Reduce answers and costs to the report object described at the top of this module.

    Args:
        labels, ids: (N,) class numbers and content ids of the test examples.
        teacher: judged on the same examples.
        arms: in the order of the recipe. The first one that listens to the teacher gets the headline; choosing the
            best one here would be choosing on the test part.
        latency: model or arm name -> times by batch size, as `cost.latency` gives them.
        warnings: sentences the run wants read.
        baseline: name of the arm that learned without the teacher.
        teacher_val_accuracy: for the reference line in the curves.
        val_labels: (V,) class numbers of the validation examples, for the models that have `val_logits`.

    Raises:
        InputError: arms without students, repeated names or seeds, or answers that do not fit the labels.
    """
    _check(arms)
    truth = metrics.as_labels(labels, len(classes))
    judged = {"teacher": [teacher]} | {arm.name: arm.students for arm in arms}
    logits = _answers(judged, truth, len(classes))
    right = {name: [metrics.predictions(one) == truth for one in several] for name, several in logits.items()}
    share = {name: np.asarray(np.mean(several, axis=0), dtype=np.float64) for name, several in right.items()}
    known = baseline if any(arm.name == baseline for arm in arms) else None
    headline = next((arm.name for arm in arms if arm.distilled), arms[0].name)
    compared = known if known != headline else None
    found, marks = _measured(judged, logits, truth, val_labels)
    report: dict[str, Any] = {
        "format": FORMAT,
        **_run(run),
        "seeds": sorted({seed for arm in arms for seed in _seeds(arm)}),
        "classes": list(classes),
        "baseline": known,
        "headline": headline,
        "data": _data(data, classes, truth),
        "models": _models(arms, known, judged, found, truth.size, latency or {}),
        "comparisons": _comparisons(arms, known, right, truth, resamples),
        "per_class": ranking.with_marks(by_class(classes, truth, share, headline=headline, baseline=compared), marks),
        "confusion": mistakes(logits, truth, classes, [name for name in ("teacher", known, headline) if name]),
        **_curves(arms, teacher_val_accuracy),
        "methods": {key: how for key, how in METHODS.items() if any(key in runs[0] for runs in found.values())},
    }
    report["summary"] = _summary(report, share, _ids(ids, truth))
    return report | {"warnings": red_flags(report, warnings)}


def _check(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) < len(names) or "teacher" in names:
        raise InputError(
            "arms need names of their own", given=", ".join(names) or "none", expected="distinct names, not `teacher`"
        )
    for arm in arms:
        seeds = _seeds(arm)
        if not seeds or len(set(seeds)) < len(arm.students):
            raise InputError(
                f"arm `{arm.name}` needs one student for each seed",
                given=f"{len(arm.students)} students, seeds {seeds}",
            )
    if not set.intersection(*(set(_seeds(arm)) for arm in arms)):
        raise InputError("the arms share no seed, so nothing can be paired", given=", ".join(names))


def _seeds(arm: Arm) -> list[int]:
    return [student.seed for student in arm.students if student.seed is not None]


def _answers(
    judged: Mapping[str, Sequence[Judged]], truth: metrics.Ints, classes: int
) -> dict[str, list[metrics.Floats]]:
    """Everybody's logits, checked against the labels and the classes."""
    return {
        name: [metrics.as_answers(name, one.logits, truth.size, classes) for one in several]
        for name, several in judged.items()
    }


def _ids(ids: ArrayLike, truth: metrics.Ints) -> metrics.Ints:
    array = np.asarray(ids)
    if array.shape != truth.shape:
        raise InputError("every test example needs its id", given=array.shape, expected=str(truth.shape))
    return array.astype(np.int64)


def _run(run: RunFacts) -> dict[str, Any]:
    return {
        "recipe": {"name": run.recipe_name, "text": run.recipe_text},
        "command": run.command,
        "load_snippet": run.load_snippet,
        "versions": dict(run.versions),
        "wall_seconds": run.wall_seconds,
        "deterministic": run.deterministic,
        "answers": None if run.answers is None else dict(run.answers),
    }


def _measured(
    judged: Mapping[str, Sequence[Judged]],
    logits: Mapping[str, list[metrics.Floats]],
    truth: metrics.Ints,
    val_labels: ArrayLike | None,
) -> tuple[dict[str, list[Metrics]], dict[str, list[Marks]]]:
    """Every metric of every model and seed, and the marks of its classes."""
    teacher = logits["teacher"][0]
    classes = teacher.shape[1]
    marks = {name: [ranking.class_marks(one, truth) for one in several] for name, several in logits.items()}
    found: dict[str, list[Metrics]] = {name: [] for name in judged}
    for name, several in judged.items():
        for model, one, mark in zip(several, logits[name], marks[name], strict=True):
            temperature = calibration.temperature_of(name, model.val_logits, val_labels, classes)
            measured = metrics.measure(one, truth, teacher) | ranking.measure(one, truth, mark["auc"])
            found[name].append(measured | calibration.measure(one, truth, temperature))
    return found, marks


def _models(
    arms: Sequence[Arm],
    baseline: str | None,
    judged: Mapping[str, Sequence[Judged]],
    found: Mapping[str, Sequence[Metrics]],
    n: int,
    latency: Mapping[str, Sequence[Latency]],
) -> list[dict[str, Any]]:
    facts = [("teacher", "teacher", ""), *((arm.name, _role(arm, baseline), arm.describes) for arm in arms)]
    reference = found["teacher"][0]["accuracy"]
    models = [_model(*fact, judged[fact[0]], found[fact[0]], reference, n) for fact in facts]
    return [_relative(model, models[0], latency) for model in models]


def _comparisons(
    arms: Sequence[Arm],
    baseline: str | None,
    right: Mapping[str, Sequence[NDArray[np.bool_]]],
    truth: metrics.Ints,
    resamples: int,
) -> list[dict[str, Any]]:
    """Every student that listened to the teacher against the one that did not."""
    if baseline is None:
        return []
    by_seed = {arm.name: dict(zip(_seeds(arm), right[arm.name], strict=True)) for arm in arms}
    students = [arm.name for arm in arms if arm.distilled and arm.name != baseline]
    return adjust(
        [compare(name, by_seed[name], baseline, by_seed[baseline], truth, resamples=resamples) for name in students]
    )


def _curves(arms: Sequence[Arm], reference: float | None) -> dict[str, Any]:
    return {
        "teacher_val_accuracy": reference,
        "curves": bands({arm.name: [student.curve for student in arm.students] for arm in arms}),
        "training": {arm.name: {str(s.seed): [clean(r) for r in s.curve] for s in arm.students} for arm in arms},
    }


def _role(arm: Arm, baseline: str | None) -> str:
    if arm.name == baseline:
        return "baseline"
    return "distilled" if arm.distilled else "other"


def _model(
    name: str,
    role: str,
    describes: str,
    judged: Sequence[Judged],
    found: Sequence[Metrics],
    reference: float,
    n: int,
) -> dict[str, Any]:
    """One row of the main table: the mean over seeds, and each run behind it."""
    shared = [key for key in found[0] if all(key in run for run in found)]
    sizes = {"temperature": len(np.asarray(judged[0].val_logits))} if "temperature" in shared else {}
    means = {key: over_seeds([run[key] for run in found], sizes.get(key, n)) for key in shared}
    accuracy = means["accuracy"]
    return {
        "name": name,
        "role": role,
        "describes": describes,
        "seeds": [model.seed for model in judged if model.seed is not None],
        "metrics": {key: estimate.to_json() for key, estimate in means.items()},
        "accuracy_items": wilson(min(1.0, accuracy.value), n, seeds=len(judged)).to_json(),
        "retained": accuracy.scaled(1 / reference).to_json() if reference else None,
        "parameters": max(model.parameters for model in judged),
        "file_bytes": max(model.file_bytes for model in judged),
        "runs": [
            asdict(ModelScore(name, one.seed, m, one.parameters, one.file_bytes, one.sha256, one.kept_epoch))
            for one, m in zip(judged, found, strict=True)
        ],
    }


def _relative(
    model: dict[str, Any], teacher: Mapping[str, Any], latency: Mapping[str, Sequence[Latency]]
) -> dict[str, Any]:
    """Add how much smaller and faster than the teacher a model is; times count only at equal threads and batch."""
    reference = {(item.batch, item.threads): item.p50_ms for item in latency.get("teacher", ())}
    times = []
    for item in latency.get(model["name"], ()):
        base = reference.get((item.batch, item.threads))
        times.append({**item.to_json(), "speed_ratio": None if base is None else base / item.p50_ms})
    return {
        **model,
        **{
            ratio: teacher[key] / model[key] if teacher[key] and model[key] else None
            for ratio, key in (("parameter_ratio", "parameters"), ("size_ratio", "file_bytes"))
        },
        "latency": times,
    }


def _data(data: DataFacts, classes: Sequence[str], truth: metrics.Ints) -> dict[str, Any]:
    for split, counts in data.counts.items():
        if len(counts) != len(classes):
            raise InputError(
                f"split `{split}` needs a count for every class", given=len(counts), expected=str(len(classes))
            )
    facts = asdict(data)
    facts["totals"] = {split: int(sum(counts)) for split, counts in data.counts.items()}
    facts["counts"] = [
        {"class": name} | {split: int(counts[index]) for split, counts in data.counts.items()}
        for index, name in enumerate(classes)
    ]
    facts["majority_share"] = float(np.bincount(truth).max() / truth.size)
    return facts


def _summary(
    report: Mapping[str, Any], share: Mapping[str, NDArray[np.float64]], ids: NDArray[np.int64]
) -> dict[str, Any]:
    """The few numbers that the first sentences speak of."""
    models = {model["name"]: model for model in report["models"]}
    student = models[report["headline"]]
    costs = [row for row in report["per_class"] if row["cost"] is not None]
    worst = min(costs, key=lambda row: row["cost"])
    first = next(iter(student["latency"]), None)
    teacher, ours = share["teacher"], share[report["headline"]]
    return {
        "retained": student["retained"],
        "parameter_ratio": student["parameter_ratio"],
        "size_ratio": student["size_ratio"],
        "speed_ratio": first["speed_ratio"] if first else None,
        "worst_class": {key: worst[key] for key in ("class", "n", "cost")},
        "ece": {model["name"]: model["metrics"]["ece"]["value"] for model in report["models"]},
        "forgotten": _listed(ids, (teacher == 1) & (ours == 0)),
        "newly_right": _listed(ids, (teacher == 0) & (ours == 1)),
    }


def _listed(ids: NDArray[np.int64], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """How many, and the first ids as text: they have 63 bits, more than other JSON readers keep."""
    return {"count": int(chosen.sum()), "ids": [str(one) for one in ids[chosen][:_MOST_IDS].tolist()]}
