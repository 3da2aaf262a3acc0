"""A report made again from what it was made from: the facts that it keeps, and the answers that models gave.

A report holds two kinds of things. Facts were handed to it: names, sizes, times, records of training, warnings of the
run. Everything else was computed, and is computed here once more by the same function, so a report that nobody altered
comes out the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from numpy.typing import ArrayLike

from tutelage.evaluation.folds import decided_by_folds
from tutelage.evaluation.judged import Arm, DataFacts, Judged, RunFacts, Times
from tutelage.evaluation.lineup import TEACHER
from tutelage.evaluation.scorecard import scorecard
from tutelage.evaluation.tasks import TaskFacts

Report = Mapping[str, Any]
NEEDED = ("resamples", "notices", "baseline_method")  # what reports have since they can be made again
_VIEWS = ("verdict",)  # what is said of a report, and no part of it
# Relative: a fitted temperature is known to 1e-8, other processors round otherwise, and nobody alters so little.
_SLACK = 1e-6


@final
@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What one model answered, part by part: test, val and train, of which the last two may be missing."""

    logits: Mapping[str, ArrayLike]  # part -> (rows, C)
    labels: Mapping[str, ArrayLike]  # part -> (rows,)
    ids: ArrayLike  # (N,) of the test part
    tasks: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)  # further -> test labels, logits


def is_earlier(report: Report) -> bool:
    """Whether an earlier version wrote the report, which judged several tasks one by one only, or compared arms without
    a teacher with nothing."""
    tasks, compared = report.get("tasks"), {item["name"] for item in report["comparisons"]}
    others = {model["name"] for model in report["models"] if model["role"] == "other"}
    baselines = any(model["role"] == "baseline" for model in report["models"])
    return (tasks is not None and "joint" not in tasks) or (baselines and bool(others - compared))


def can_rebuild(report: Report) -> bool:
    """Whether the report keeps all that it was made from; one of an earlier version does not."""
    return all(key in report for key in NEEDED)


def rebuild(report: Report, answers: Mapping[tuple[str, int | None], Saved]) -> dict[str, Any]:
    """The report once more, from its facts and from everybody's answers.

    Args:
        report: what `scorecard` returned, or what `report.json` holds. Things that the run added, such as pictures,
            are kept as they are.
        answers: (name, seed) of every model and seed -> what it answered; all were asked the same questions.

    Raises:
        KeyError, TypeError, ValueError: the report is not what `scorecard` returns.
    """
    rows = report["models"]
    teacher = answers[TEACHER, rows[0]["runs"][0]["seed"]]
    parts = {part: labels for saved in answers.values() for part, labels in saved.labels.items()}
    made = scorecard(
        labels=teacher.labels["test"],
        ids=teacher.ids,
        classes=report["classes"],
        teacher=_judged(rows[0]["runs"][0], answers, ()),
        arms=[_arm(row, report["training"], answers) for row in rows[1:]],
        data=_data(report["data"]),
        run=_run(report),
        latency={row["name"]: [Times(times) for times in row["latency"]] for row in rows},
        warnings=report["notices"],
        baseline=report["baseline_method"],
        teacher_val_accuracy=report["teacher_val_accuracy"],
        val_labels=parts.get("val"),
        train_labels=parts.get("train"),
        resamples=report["resamples"],
        tasks=_tasks(report, teacher),
    )
    if folds := report.get("folds"):
        made["comparisons"] = decided_by_folds(made["comparisons"], folds)
    return made | {key: value for key, value in report.items() if key not in made and key not in _VIEWS}


def differences(before: Any, after: Any) -> list[str]:
    """Where two reports differ, as lines `models.distilled.metrics.accuracy.value: 0.99, by the answers 0.91`.

    Numbers that differ only in their last digits are the same, and so is what is said of a report, its verdict.
    """
    left, right = ({key: value for key, value in one.items() if key not in _VIEWS} for one in (before, after))
    return list(_differ("", left, right))


def _differ(where: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**after, **before}:
            place = f"{where}.{key}" if where else str(key)
            if key in before and key in after:
                yield from _differ(place, before[key], after[key])
            else:
                yield f"{place}: {'missing' if key in after else 'not made from the answers'}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _differ(f"{where}.{_name(pair[1], index)}", *pair)
    elif not _same(before, after):
        yield f"{where}: {_shown(before)}, by the answers {_shown(after)}"


def _name(item: Any, index: int) -> str:
    """What a person would call an item of a list: a model or class by its name."""
    named = next((item[key] for key in ("name", "class") if key in item), index) if isinstance(item, dict) else index
    return str(named)


def _same(before: Any, after: Any) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (before, after))
    return math.isclose(before, after, rel_tol=_SLACK, abs_tol=1e-12) if numbers else bool(before == after)


def _shown(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _arm(row: Report, training: Report, answers: Mapping[tuple[str, int | None], Saved]) -> Arm:
    curves = training.get(row["name"], {})
    students = [_judged(run, answers, curves.get(str(run["seed"]), ())) for run in row["runs"]]
    words = {key: row[key] for key in ("describes", "student", "method", "of", "compression")}
    return Arm(row["name"], students, row["distilled"], **words)


def _judged(
    run: Report, answers: Mapping[tuple[str, int | None], Saved], curve: Sequence[Mapping[str, float | None]]
) -> Judged:
    saved = answers[run["name"], run["seed"]]
    said, tasks = saved.logits, {name: logits for name, (_, logits) in saved.tasks.items()}
    facts = {key: run[key] for key in ("parameters", "file_bytes", "sha256", "seed", "kept_epoch", "multiply_adds")}
    return Judged(said["test"], **facts, curve=curve, val_logits=said.get("val"), train_logits=said.get("train"),
                  robust=run.get("robust"), tasks=tasks)  # fmt: skip


def _tasks(report: Report, teacher: Saved) -> TaskFacts | None:
    """What everybody was asked beside the main task; None where that was all."""
    found = report.get("tasks")
    if found is None:
        return None
    further = {row["name"]: row["classes"] for row in found["each"][1:]}
    asked = {name: (teacher.tasks[name][0], classes) for name, classes in further.items()}
    return TaskFacts(found["main"], asked, questions=found.get("questions", False))


def _data(facts: Report) -> DataFacts:
    kept = ("name", "fingerprint", "test_sha256", "test_looks", "shared_examples", "task")
    counts = {split: [row[split] for row in facts["counts"]] for split in facts["totals"]}
    return DataFacts(counts=counts, unlabelled=facts.get("unlabelled", 0), **{key: facts[key] for key in kept})


def _run(report: Report) -> RunFacts:
    kept = ("command", "load_snippet", "versions", "wall_seconds", "deterministic", "answers")
    recipe = report["recipe"]
    return RunFacts(recipe["name"], recipe["text"], **{key: report[key] for key in kept})
