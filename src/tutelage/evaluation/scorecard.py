"""Everything a run found out, reduced once to one JSON object. `report.json` is the truth; every page is a view of it.

Shares are fractions of 1, NLL and divergence nats, times milliseconds. `E` is an estimate, {value, ci_low, ci_high, n,
seeds, method}, whose ends are null where one run tells nothing about the spread.

    format          "tutelage-report-1"
    recipe          {name, text}        command, load_snippet   text
    versions        {name: version}     wall_seconds, deterministic, seeds [int], classes [name]
    answers         null with a live teacher; else of the store: key, rows, asked, seconds, bytes, codec, views
    headline        the distilled arm that the words are about
    baseline        the arm in which its student learned without a teacher, or null
    baseline_method name of that objective              resamples   of the bootstrap over test examples
    data            {name, task, fingerprint, test_sha256, test_looks, shared_examples, majority_share,
                     unlabelled n where there are any, totals {split: n}, counts [{class, <split>: n}]}
    models          teacher first, then arms in recipe order: {name, role: teacher|baseline|distilled|compressed|other,
                     describes, student ("" where there is one), method, of and compression ("" unless compressed),
                     distilled, seeds, metrics {metric: E over seeds}, accuracy_items E, retained E|null, parameters,
                     file_bytes, multiply_adds, parameter_ratio, size_ratio, multiply_add_ratio (null where either side
                     is unknown, that is 0),
                     latency [{batch, p50_ms, ci_low_ms, ci_high_ms, p90_ms, n, threads, speed_ratio, …}],
                     runs [{name, seed, metrics, parameters, file_bytes, sha256, kept_epoch, multiply_adds,
                     answers {test, val, train: sum of what it answered}, robust where attacked}],
                     robust where all runs were attacked: {accuracy E, fgsm E, clean E, accuracy_items E, eps, steps,
                     step, restarts, examples}; those of runs are measured, and no answers give them again}
    comparisons     one per distilled arm against the baseline of its student, and then one per other arm that learned
                     without a teacher; adjusted together: {name, against, basis: seeds|examples|folds, decision: gain|
                     none|worse, difference E (the one that decides), by_seed E|null, by_example E, per_seed [{seed,
                     difference}], p, p_method, p_adjusted, newly_right, newly_wrong, minimum_detectable}
    compressions    likewise, one per compressed arm against the arm it was made from
    frontier        {batch, threads, points [{name, student, method, compression, role, accuracy E, parameters,
                     file_bytes, multiply_adds|null, p50_ms {value, ci_low, ci_high}|null, on_size, on_latency}]}
    summary         {retained E, parameter_ratio, size_ratio, speed_ratio, worst_class {class, n, cost},
                     ece {model: value}, forgotten {count, ids}, newly_right {count, ids}}
    per_class       [{class, n, recall {model: value}, precision, f1 and auc likewise (null where not defined),
                     interval E, cost, change, p_adjusted, changed}]
    confusion       {models [name], rates {name: C × C by row} | null beyond 20 classes, difference C × C | null,
                     pairs [{true, predicted, n, rates {name: value}}]}
    fidelity        {methods, arms [{name, against, test P, train P|null}]}, how each distilled arm and its baseline
                     agree with the teacher; for P see `fidelity`
    drawn           {n, classes, methods, models {name: {reliability, confidence, risk_coverage, roc, …}}}, the points
                     of curves, of the teacher, the headline and its baseline; see `drawn`
    teacher_val_accuracy    number | null
    curves          {metric: {arm: [{epoch, mean, low, high, seeds}]}}      training  {arm: {seed: [record]}}
    pictures        [{true, said, png}], of forgotten examples, added by the run where they are images
    exports         files that run elsewhere, added by the run where it wrote some: [{name, of, format, line, kept,
                    file, input_shape, preprocessing, runs [{seed, bytes, sha256, parity} | {seed, refused}]}]; those
                    that were kept for every seed stand in `models`, as compressed
    notices         [text], what the run wants read         warnings   [{code, text}], the notices last
    methods         {metric: how it was computed}

Where models answer several tasks all of this is of the main one, and `tasks` holds how they did on each and on all
together: {main, mean [{name, accuracy E}], each [task], questions, joint}; see `evaluation.tasks` and `.joint`. Where
these are the places at which an answer in a text starts and ends (`questions`), right is who names both: `accuracy` is
exact match, `f1` stands beside it, and so are the comparisons, the frontier and the lists of examples. What else models
have is of where answers start, and `fidelity` is left out.

A metric that is not defined for every seed of a model, such as a temperature where the validation part has no best one,
is missing from the model's `metrics`; a report of an earlier version may lack any but the first ones. `per_class`,
`confusion` and `summary` look at the headline and its baseline. All of it follows from the facts in the report and the
answers that `runs` name, and `evaluation.rebuild` makes it from those again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import InputError
from tutelage.evaluation import calibration, metrics, ranking, robust
from tutelage.evaluation.comparison import by_class, compare_pairs, mistakes
from tutelage.evaluation.curves import bands, clean
from tutelage.evaluation.drawn import drawn
from tutelage.evaluation.fidelity import fidelity
from tutelage.evaluation.flags import red_flags
from tutelage.evaluation.frontier import frontier
from tutelage.evaluation.joint import judge_together, score_together
from tutelage.evaluation.judged import Arm, DataFacts, Judged, RunFacts, Timed
from tutelage.evaluation.lineup import TEACHER, Lineup, seeds_of
from tutelage.evaluation.modelrows import model_rows
from tutelage.evaluation.scoring import Answers, Questions, read, score_models
from tutelage.evaluation.tasks import Asked, TaskFacts, score_tasks

FORMAT = "tutelage-report-1"
_MOST_IDS = 50

METHODS = {**metrics.METHODS, **ranking.METHODS, **calibration.METHODS}


def scorecard(
    *,
    labels: ArrayLike,
    ids: ArrayLike,
    classes: Sequence[str],
    teacher: Judged,
    arms: Sequence[Arm],
    data: DataFacts,
    run: RunFacts,
    latency: Mapping[str, Sequence[Timed]] | None = None,
    warnings: Sequence[str] = (),
    baseline: str = "scratch",
    teacher_val_accuracy: float | None = None,
    val_labels: ArrayLike | None = None,
    train_labels: ArrayLike | None = None,
    resamples: int = 10_000,
    tasks: TaskFacts | None = None,
) -> dict[str, Any]:
    """Reduce answers and costs to the report object described at the top of this module.

    Args:
        labels, ids: (N,) class numbers and content ids of the test examples.
        teacher: judged on the same examples.
        arms: in the order of the recipe. The first trained one that listens to the teacher gets the headline; choosing
            the best one here would be choosing on the test part.
        latency: model or arm name -> times by batch size, as `cost.latency` gives them.
        warnings: sentences the run wants read.
        baseline: method of the arms that learned without the teacher, one for each student.
        teacher_val_accuracy: for the reference line in the curves.
        val_labels: (V,) class numbers of the validation examples, for the models that have `val_logits`.
        train_labels: (T,) class numbers of the sample of the training part, for the models that have `train_logits`.
        resamples: of the bootstrap over test examples.
        tasks: what else models were asked about the same examples, for those that have answers to it.

    Raises:
        InputError: arms without students, repeated names or seeds, or answers that do not fit the labels.
    """
    lineup = Lineup.of(arms, baseline)
    truth = metrics.as_labels(labels, len(classes))
    numbers = _ids(ids, truth)
    judged = {TEACHER: [teacher]} | {arm.name: arm.students for arm in lineup.arms}
    questions = Questions(numbers, truth, len(classes), val_labels, train_labels)
    answers = {name: [read(name, one, questions) for one in several] for name, several in judged.items()}
    logits = {name: [one.test for one in several] for name, several in answers.items()}
    main = Asked(numbers, truth, tuple(classes))
    together = None if tasks is None else judge_together(tasks, judged, main)
    right = {name: [metrics.predictions(one) == truth for one in several] for name, several in logits.items()}
    strata, taught = truth, lineup.against_baselines()
    if together is not None and together.questions:
        # An answer in a text is right as a whole, or it is not.
        right, strata, taught = dict(together.right), together.strata, {}
    share = {name: np.asarray(np.mean(several, axis=0), dtype=np.float64) for name, several in right.items()}
    by_seed = {arm.name: dict(zip(seeds_of(arm), right[arm.name], strict=True)) for arm in lineup.arms}
    headline, known = lineup.headline.name, lineup.baseline(lineup.headline)
    marks = {name: [ranking.class_marks(one, truth) for one in several] for name, several in logits.items()}
    scores = score_models(judged, answers, questions, marks)
    scores = scores if together is None else together.told(scores)
    rows = model_rows(lineup, judged, scores, truth.size, latency or {})
    shown = [name for name in dict.fromkeys((TEACHER, known, headline)) if name]
    report: dict[str, Any] = {
        "format": FORMAT,
        **_run(run),
        "seeds": sorted({seed for arm in lineup.arms for seed in seeds_of(arm)}),
        "classes": list(classes),
        "baseline": known,
        "baseline_method": baseline,
        "headline": headline,
        "resamples": resamples,
        "data": _data(data, classes, truth),
        "models": rows,
        "comparisons": compare_pairs(lineup.compared(), by_seed, strata, resamples=resamples),
        "compressions": compare_pairs(lineup.against_originals(), by_seed, strata, resamples=resamples),
        "frontier": frontier(rows),
        "per_class": ranking.with_marks(
            by_class(classes, truth, share, headline=headline, baseline=known if known != headline else None), marks
        ),
        "confusion": mistakes(logits, truth, classes, shown),
        "fidelity": _fidelity(taught, lineup, answers, questions, resamples),
        "drawn": drawn({name: logits[name] for name in shown}, truth),
        **_curves(lineup.plain, teacher_val_accuracy),
        "methods": {key: how for key, how in METHODS.items() if any(key in row["runs"][0]["metrics"] for row in rows)}
        | (robust.METHODS if any("robust" in row for row in rows) else {})
        | ({} if together is None else together.methods),
    }
    if together is not None and together.most is not None:
        report["data"]["majority_share"] = together.most
    report["summary"] = _summary(report, share, numbers)
    if tasks is not None and together is not None:
        report["tasks"] = score_tasks(tasks, lineup, judged, main, resamples=resamples)
        report["tasks"] |= score_together(together, lineup, judged, resamples=resamples)
    return report | {"notices": list(warnings), "warnings": red_flags(report, warnings)}


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


def _curves(arms: Sequence[Arm], reference: float | None) -> dict[str, Any]:
    return {
        "teacher_val_accuracy": reference,
        "curves": bands({arm.name: [student.curve for student in arm.students] for arm in arms}),
        "training": {arm.name: {str(s.seed): [clean(r) for r in s.curve] for s in arm.students} for arm in arms},
    }


def _data(data: DataFacts, classes: Sequence[str], truth: metrics.Ints) -> dict[str, Any]:
    for split, counts in data.counts.items():
        if len(counts) != len(classes):
            raise InputError(
                f"split `{split}` needs a count for every class", given=len(counts), expected=str(len(classes))
            )
    facts = asdict(data)
    if not data.unlabelled:
        del facts["unlabelled"]
    facts["totals"] = {split: int(sum(counts)) for split, counts in data.counts.items()}
    facts["counts"] = [
        {"class": name} | {split: int(counts[index]) for split, counts in data.counts.items()}
        for index, name in enumerate(classes)
    ]
    facts["majority_share"] = float(np.bincount(truth).max() / truth.size)
    return facts


def _fidelity(
    against: Mapping[str, str],
    lineup: Lineup,
    answers: Mapping[str, Sequence[Answers]],
    questions: Questions,
    resamples: int,
) -> dict[str, Any]:
    """How every distilled arm and its baseline agree with the teacher, on the test part and on what they learned."""
    seen = {name: [one.train for one in several if one.train is not None] for name, several in answers.items()}
    train = {name: several for name, several in seen.items() if len(several) == len(answers[name])}
    return fidelity(
        {name: [one.test for one in several] for name, several in answers.items()},
        questions.labels,
        against=against,
        train=(train, np.asarray(questions.train_labels, dtype=np.int64)) if train else None,
        resamples=resamples,
        seeds={arm.name: seeds_of(arm) for arm in lineup.arms},
    )


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
