"""Why a teacher may fail on data that it should know: inputs prepared in another way, classes in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.models import Normalise
from tutelage.run.checks.findings import percent

__all__ = ["BETTER", "class_order", "preprocessing"]

Ints = NDArray[np.int64]
Scaling = tuple[Sequence[float], Sequence[float]]

BETTER = 0.2  # so much more must another preprocessing get right to be the reason
_REORDERED = 0.3
_SHOWN = 10


def preprocessing(
    right: Callable[[Tensor], float], inputs: Tensor, least: float, module: nn.Module, scaling: Scaling
) -> str | None:
    """The other way to prepare the inputs that makes the teacher right, in words; None where none does.

    Args:
        right: the share of right answers for other inputs in the same rows' places.
        inputs: (N, …) as they are given to the model.
        least: what another way must reach to be the reason.
        module: the teacher, whose own normalisation can be undone.
        scaling: mean and deviation of the data.
    """
    tried = {words: right(other) for words, other in _variants(inputs, module, scaling)}
    if not tried:
        return None
    words, best = max(tried.items(), key=lambda one: one[1])
    if best < least:
        return None
    return f"wrong preprocessing: with the inputs {words} it is right for {percent(best)}"


def _variants(inputs: Tensor, module: nn.Module, scaling: Scaling) -> Iterator[tuple[str, Tensor]]:
    if not inputs.is_floating_point():
        return  # tokens are not scaled
    own = next((part for part in module.modules() if isinstance(part, Normalise)), None)
    if inputs.ndim == 4:
        if float(inputs.min()) >= 0.0 and float(inputs.max()) <= 1.0:
            yield "inverted (1 − x)", 1.0 - inputs
            yield "not divided by 255 (x · 255)", inputs * 255.0
            if own is not None:
                yield "not divided by 255 and not standardised", _undone(inputs * 255.0, own)
        if inputs.shape[1] == 3:
            yield "with their channels reversed (RGB and BGR)", inputs.flip(1)
    yield "standardised twice (once before the model)", (inputs - _like(scaling[0], inputs)) / _like(scaling[1], inputs)
    if own is not None:
        yield "not standardised (without the model's normalise.mean and normalise.std)", _undone(inputs, own)


def _undone(inputs: Tensor, own: Normalise) -> Tensor:
    return inputs * own.std.cpu() + own.mean.cpu()


def _like(values: Sequence[float], inputs: Tensor) -> Tensor:
    vector = torch.tensor(values)
    return vector.reshape(-1, 1, 1) if inputs.ndim == 4 else vector


def class_order(answers: Ints, labels: Ints, classes: Sequence[str], bar: float) -> str | None:
    """The order of classes in which the answers fit the labels, in words; None where there is no such order.

    With few rows a class some order always fits by accident. So it is found on every other row and judged on the rest,
    both ways round.

    Args:
        answers: (N,) classes that the teacher names.
        labels: (N,) classes of the data.
        classes: their names.
        bar: the least share that is worth a word.
    """
    half = np.arange(len(labels)) % 2 == 0
    right = 0
    for chosen in (half, ~half):
        order = _best_order(answers[chosen], labels[chosen], len(classes))
        right += int((order[answers[~chosen]] == labels[~chosen]).sum())
    held_out = right / len(labels)
    if held_out < float((answers == labels).mean()) + _REORDERED or held_out <= bar:
        return None
    order = _best_order(answers, labels, len(classes))
    moved = [output for output in np.unique(answers).tolist() if order[output] != output]
    pairs = [f"its `{classes[output]}` is `{classes[order[output]]}`" for output in moved]
    shown = ", ".join(pairs[:_SHOWN]) + (f", … ({len(pairs)} in all)" if len(pairs) > _SHOWN else "")
    return (
        f"the teacher's classes seem to stand in another order, in which it is right for {percent(held_out)}: {shown}"
    )


def _best_order(answers: Ints, labels: Ints, classes: int) -> Ints:
    """The class of the data that each of the teacher's outputs (C,) stands for: one to one, and right most often."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, labels), 1.0)
    # Where nothing speaks for another order a class keeps its place.
    counts += 1e-6 * np.eye(classes)
    _, meant = linear_sum_assignment(counts, maximize=True)
    return np.asarray(meant, dtype=np.int64)
