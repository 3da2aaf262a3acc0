"""Whether a teacher of several tasks knows each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data import Examples
from tutelage.evaluation.predict import best_of_tasks
from tutelage.evaluation.significance import wilson
from tutelage.run.checks.findings import Finding, fault, ok, percent, warning

__all__ = ["bar_of", "majority_of", "task_findings"]


def task_findings(title: str, logits: Tensor, rows: Examples) -> Iterator[Finding]:
    """Its accuracy on each task, beside what guessing would reach.

    Args:
        title: what messages call the teacher.
        logits: (N, C), of all tasks, one after the other.
        rows: the N examples that it was asked about.
    """
    said = best_of_tasks(logits, rows.sizes)
    for number, (task, labels) in enumerate(rows.labels.items()):
        share, classes = float((said[:, number] == labels).double().mean()), rows.sizes[task]
        interval = wilson(share, len(rows))
        assert interval.ci_low is not None
        assert interval.ci_high is not None
        majority = majority_of(labels.numpy())
        text = (
            f"{percent(share)} of {len(rows)} validation rows right, "
            f"chance is {percent(1 / classes)}, always the most frequent class {percent(majority)}"
        )
        where = f"{title}'s answers, task {task}"
        if interval.ci_high < bar_of(classes) or interval.ci_high <= majority:
            yield fault(where, text, "check what these weights were trained on, and the order of tasks and classes")
        elif interval.ci_low <= max(1 / classes, majority):
            yield warning(where, f"{text}: too close to a guess to tell that it knows this task")
        else:
            yield ok(where, text)


def bar_of(classes: int) -> float:
    """What a teacher must reach to be one: three times chance; where that is much, a quarter of the way from chance.

    Three times chance cannot be reached with two classes, and hardly with three.
    """
    return min(3 / classes, 1 / classes + (1 - 1 / classes) / 4)


def majority_of(labels: NDArray[np.int64]) -> float:
    """How often the most frequent label comes."""
    return float(np.bincount(labels).max()) / len(labels)
