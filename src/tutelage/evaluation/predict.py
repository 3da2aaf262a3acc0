"""Asking a model, or a teacher of any kind, for its answers to plain examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tutelage.tasks import columns_of
from tutelage.teachers import Teacher
from tutelage.training.device import move
from tutelage.types import Batch

__all__ = ["ask", "ask_told", "best_of_tasks", "predict", "task_scores", "validation_scores"]


def predict(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """Logits (N, C) in float32 on the CPU, in eval mode; the mode the model was in comes back afterwards."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(batch.inputs["x"].to(device)).float().cpu() for batch in batches])
    model.train(was_training)
    return logits


def ask(teacher: Teacher, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """A teacher's logits (N, C) on the CPU."""
    return ask_told(teacher, batches, device)[0]


def ask_told(teacher: Teacher, batches: Iterable[Batch], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """A teacher's logits (N, C) on the CPU, and which of these it has a say about, (N,) bool; None where about all."""
    answers = [teacher.answer(move(batch, device)) for batch in batches]
    logits = torch.cat([one.logits.float().cpu() for one in answers if isinstance(one.logits, Tensor)])
    if all(one.counts is None for one in answers):
        return logits, None
    whole = [torch.ones(len(one.logits), dtype=torch.bool) for one in answers if isinstance(one.logits, Tensor)]
    return logits, torch.cat(
        [all_ if one.counts is None else one.counts.cpu() for one, all_ in zip(answers, whole, strict=True)]
    )


def validation_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy (share) and NLL (nats): what the loop chooses an epoch by."""
    return {
        "accuracy": float((logits.argmax(-1) == targets).double().mean()),
        "nll": float(nn.functional.cross_entropy(logits.double(), targets)),
    }


def task_scores(logits: Tensor, labels: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, float]:
    """The same over all tasks of a model: means over tasks, and the accuracy on each where there are several.

    Args:
        logits: (N, C), of all tasks, one after the other.
        labels: task -> (N,), the main one first.
        sizes: task -> number of its classes, likewise.
    """
    each = {
        name: validation_scores(logits[:, start:stop], labels[name])
        for name, (start, stop) in columns_of(sizes).items()
    }
    if len(each) == 1:
        return next(iter(each.values()))
    means = {key: sum(one[key] for one in each.values()) / len(each) for key in ("accuracy", "nll")}
    return means | {f"accuracy_{name}": one["accuracy"] for name, one in each.items()}


def best_of_tasks(logits: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """The class (N, tasks) that logits (N, C) of all tasks name for each of them."""
    return torch.stack([logits[:, start:stop].argmax(-1) for start, stop in columns_of(sizes).values()], dim=1)
