"""How every model did on each of several tasks, and what distillation added there, by the functions of the main report.

    main     name of the task that the rest of the report is about
    mean     [{name, accuracy E}] of every model over seeds, of the mean over tasks, by which epochs were chosen
    each     [{name, classes [name], majority_share, models [{name, role, accuracy E over seeds, accuracy_items E,
             runs [{seed, accuracy, answers: sum of what it answered}]}],
             comparisons: as those of the report}], the main task first

The p-values of all tasks' comparisons are adjusted together: who looks at three tasks has three chances to be lucky.
What models made of all tasks at once, `questions` and `joint`, stands beside these; see `evaluation.joint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from tutelage.errors import InputError
from tutelage.evaluation import metrics
from tutelage.evaluation.comparison import adjust, compare
from tutelage.evaluation.judged import Judged
from tutelage.evaluation.lineup import TEACHER, Lineup, seeds_of
from tutelage.evaluation.scoring import digest
from tutelage.evaluation.significance import over_seeds, wilson

__all__ = ["Asked", "TaskFacts", "asked_of", "logits_of", "score_tasks"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class TaskFacts:
    """What models were asked beside the main task, about the same test examples."""

    main: str  # what the main task is called
    further: Mapping[str, tuple[ArrayLike, Sequence[str]]]  # task -> labels (N,), names of its classes
    questions: bool = False  # whether the tasks are the places where an answer starts and ends


@final
@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One task's questions."""

    ids: metrics.Ints  # (N,)
    labels: metrics.Ints  # (N,)
    classes: tuple[str, ...]


def asked_of(facts: TaskFacts, main: Asked) -> dict[str, Asked]:
    """Task -> its questions, the main one first.

    Raises:
        InputError: labels that are no class numbers.
    """
    asked = {facts.main: main}
    for name, (labels, classes) in facts.further.items():
        asked[name] = Asked(main.ids, metrics.as_labels(labels, len(classes)), tuple(classes))
    return asked


def score_tasks(
    facts: TaskFacts, lineup: Lineup, judged: Mapping[str, Sequence[Judged]], main: Asked, *, resamples: int
) -> dict[str, Any]:
    """The section that the top of this module describes.

    Args:
        facts: the further tasks.
        lineup: the arms.
        judged: name of model or arm -> its models, the teacher first.
        main: questions of the main task.
        resamples: of the bootstrap over test examples.

    Raises:
        InputError: a model lacks answers to a task, or they do not fit its labels.
    """
    roles = {TEACHER: TEACHER, **{arm.name: lineup.role(arm) for arm in lineup.arms}}
    right: dict[str, dict[str, list[np.ndarray[Any, np.dtype[np.bool_]]]]] = {}
    each, compared = [], []
    for task, own in asked_of(facts, main).items():
        said = {name: [logits_of(name, one, task, facts.main) for one in several] for name, several in judged.items()}
        right[task] = {name: [_right(name, logits, own, task) for logits in several] for name, several in said.items()}
        models = [
            _model(name, roles[name], [one.seed for one in judged[name]], said[name], right[task][name], own)
            for name in judged
        ]
        share = float(np.bincount(own.labels).max() / own.labels.size)
        each.append({"name": task, "classes": list(own.classes), "majority_share": share, "models": models})
        # Of hundreds of places few examples have the same one, so that only whether there is an answer is a stratum.
        strata = (own.labels > 0).astype(np.int64) if facts.questions else own.labels
        seeds = {arm.name: dict(zip(seeds_of(arm), right[task][arm.name], strict=True)) for arm in lineup.arms}
        compared += [
            compare(name, seeds[name], other, seeds[other], strata, resamples=resamples) | {"task": task}
            for name, other in lineup.compared().items()
        ]
    adjusted = adjust(compared)
    for row in each:
        row["comparisons"] = [one for one in adjusted if one["task"] == row["name"]]
    return {"main": facts.main, "mean": _means(right, main.labels.size), "each": each}


def _means(right: Mapping[str, Mapping[str, Sequence[Any]]], n: int) -> list[dict[str, Any]]:
    """Of every model the mean accuracy over tasks, over seeds."""
    found = []
    for name in next(iter(right.values())):
        runs = zip(*(by_model[name] for by_model in right.values()), strict=True)
        values = [float(np.mean([one.mean() for one in run])) for run in runs]
        found.append({"name": name, "accuracy": over_seeds(values, n).within(0.0, 1.0).to_json()})
    return found


def logits_of(name: str, model: Judged, task: str, main: str) -> ArrayLike:
    """A model's logits (N, C) of one task.

    Raises:
        InputError: it has none.
    """
    if task == main:
        return model.logits
    if task not in model.tasks:
        raise InputError(f"`{name}` has no answers to the task `{task}`", given=", ".join(model.tasks) or "none")
    return model.tasks[task]


def _right(name: str, logits: ArrayLike, asked: Asked, task: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    checked = metrics.as_answers(f"{name}, task {task}", logits, asked.labels.size, len(asked.classes))
    found: np.ndarray[Any, np.dtype[np.bool_]] = metrics.predictions(checked) == asked.labels
    return found


def _model(
    name: str,
    role: str,
    seeds: Sequence[int | None],
    said: Sequence[ArrayLike],
    right: Sequence[np.ndarray[Any, np.dtype[np.bool_]]],
    asked: Asked,
) -> dict[str, Any]:
    values, n = [float(one.mean()) for one in right], asked.labels.size
    accuracy = over_seeds(values, n).within(0.0, 1.0)
    sums = [digest(asked.ids, asked.labels, logits) for logits in said]
    return {
        "name": name,
        "role": role,
        "accuracy": accuracy.to_json(),
        "accuracy_items": wilson(min(1.0, accuracy.value), n, seeds=len(values)).to_json(),
        "runs": [
            {"seed": seed, "accuracy": value, "answers": own}
            for seed, value, own in zip(seeds, values, sums, strict=True)
        ],
    }
