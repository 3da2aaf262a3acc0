"""Asking a model, or a teacher of any kind, for its answers to plain examples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tutelage.teachers import Teacher
from tutelage.training.device import move
from tutelage.types import Batch

__all__ = ["ask", "predict", "validation_scores"]


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
    answers = [teacher.answer(move(batch, device)).logits for batch in batches]
    return torch.cat([answer.float().cpu() for answer in answers if isinstance(answer, Tensor)])


def validation_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy (share) and NLL (nats): what the loop chooses an epoch by."""
    return {
        "accuracy": float((logits.argmax(-1) == targets).double().mean()),
        "nll": float(nn.functional.cross_entropy(logits.double(), targets)),
    }
