"""What a reader should know before believing the numbers. Nothing here is hidden behind a threshold of taste."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FEW_SEEDS = 3


def red_flags(report: Mapping[str, Any], given: Iterable[str] = ()) -> list[dict[str, str]]:
    """Warnings that follow from the report itself, and then the ones the run met, each with a code and a sentence."""
    found = [*_seeds(report), *_models(report), *_data(report)]
    return [{"code": code, "text": text} for code, text in found] + [{"code": "run", "text": text} for text in given]


def _seeds(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    arms = [set(model["seeds"]) for model in report["models"] if model["role"] != "teacher"]
    count = len(set.intersection(*arms))
    if count == 1:
        said = "A single run: another seed may give another answer, of which an interval over examples knows nothing."
        yield "few-seeds", f"{said} Three seeds or more show the spread."
    elif count < FEW_SEEDS:
        yield "few-seeds", f"Only {count} seeds: the interval over seeds is wide. Three or more are worth their time."
    if any(model["seeds"] != report["seeds"] for model in report["models"] if model["role"] != "teacher"):
        yield "seeds-differ", "Not every arm has every seed; comparisons use the seeds that both arms have."
    if not report["deterministic"]:
        yield "not-deterministic", "Deterministic mode was off: the same command may give slightly other numbers."


def _models(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    models = {model["name"]: model for model in report["models"]}
    accuracy = models["teacher"]["accuracy_items"]
    most = report["data"]["majority_share"]
    if accuracy["ci_low"] <= most and (report.get("tasks") or {}).get("questions"):
        yield (
            "teacher-near-chance",
            f"The teacher's exact match, {accuracy['value']:.1%}, is hardly above always giving the commonest answer, "
            f"{most:.1%}.",
        )
    elif accuracy["ci_low"] <= most:
        yield (
            "teacher-near-chance",
            f"The teacher's accuracy, {accuracy['value']:.1%}, is hardly above always naming the commonest class, "
            f"{most:.1%}.",
        )
    yield from _baselines(report, accuracy["value"])
    if not any(model["role"] == "distilled" for model in report["models"]):
        yield "no-distilled", "No arm listened to the teacher, so this run distilled nothing."
    ratio = report["summary"]["parameter_ratio"]
    if ratio is not None and ratio <= 1:
        yield "not-smaller", "The student has no fewer parameters than the teacher."


def _baselines(report: Mapping[str, Any], teacher: float) -> Iterable[tuple[str, str]]:
    """Every student should have learned without the teacher as well, and less well than it."""
    trained = [model for model in report["models"] if model["role"] not in ("teacher", "compressed")]
    alone = {model["student"]: model for model in trained if model["role"] == "baseline"}
    missing = [name for name in dict.fromkeys(model["student"] for model in trained) if name not in alone]
    if not alone:
        yield "no-baseline", "No student was trained without the teacher, so nobody can say what distillation added."
    elif missing:
        yield (
            "no-baseline",
            f"Not trained without the teacher, so nobody can say what distillation added to it: {', '.join(missing)}.",
        )
    for name, model in alone.items():
        own = model["metrics"]["accuracy"]["value"]
        if teacher < own:
            which = f"the student ‘{name}’" if name else "the student"
            yield "teacher-weaker", f"The teacher ({teacher:.1%}) is weaker than {which} that never met it ({own:.1%})."


def _data(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    data = report["data"]
    if data["shared_examples"]:
        yield "shared-examples", f"{data['shared_examples']:,} test or validation examples also stand in another split."
    if data["test_looks"] > 1:
        yield (
            "test-looks",
            f"The test part was looked at {data['test_looks']} times; "
            "choices made in between make its numbers too good.",
        )
    if (report.get("tasks") or {}).get("questions"):
        return  # places of a text, where many have no answer
    for split in ("train", "test"):
        missing = [row["class"] for row in data["counts"] if row.get(split) == 0]
        if missing:
            names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            yield "empty-class", f"{len(missing)} of {len(data['counts'])} classes have no {split} example: {names}."
