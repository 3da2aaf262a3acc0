"""What is said of a teacher before anybody learns from it: that it knows no more than how often classes come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from tutelage.evaluation.significance import wilson
from tutelage.tasks import columns_of

__all__ = ["doubts_of"]


def doubts_of(title: str, logits: Tensor, labels: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each task in which a teacher is right no more often than who always names the most frequent class.

    It is nothing to stop for: a method may want a random teacher, and one that was balanced may serve rare classes.

    Args:
        title: what messages call it.
        logits: (N, C) on the validation part, of all tasks, one after the other.
        labels: task -> (N,), the main one first.
        sizes: task -> number of its classes, likewise.
    """
    for task, (start, stop) in columns_of(sizes).items():
        own = labels[task]
        accuracy = float((logits[:, start:stop].argmax(-1) == own).double().mean())
        most = float(own.bincount().max()) / len(own)
        if accuracy > most:
            continue
        high = wilson(accuracy, len(own)).ci_high
        than = "clearly less than" if high is not None and high <= most else "no more than"
        name = title if len(sizes) == 1 else f"{title}, task `{task}`"
        yield (
            f"notice: {name} is right on {accuracy:.2%} of the validation part, {than} always naming its most frequent "
            f"class ({most:.2%}); students would learn from guesses. Look at the order of its classes and at how its "
            "inputs are prepared; `tutelage check` looks for the reason"
        )
