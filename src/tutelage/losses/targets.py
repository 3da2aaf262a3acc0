"""One mechanism for every kind of target: whole or top-k, masked or not, in any precision.

A loss gets from here its two arguments as rows of log-probabilities over the same outcomes, and gives back one number
per row; masking and averaging are done here, once. With the k largest logits of a teacher the outcomes are these k
classes and "any other class", so that a divergence stays one and is never larger than that over all classes.

Shapes:  B batch · C classes · k kept classes · "…" any leading dimensions, each row one example (or token, or pixel).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.types import Logits, TopK

__all__ = ["as_float", "average", "dense", "log_probabilities", "pair", "positive", "top_k"]


def top_k(logits: Tensor, k: int, *, temperature: float = 1.0) -> TopK:
    """Keep the k largest logits, and the mass of the others at a temperature.

    Args:
        logits: (…, C).
        k: 1 … C.
        temperature: at which losses will read it, > 0.

    Raises:
        InputError: k or the temperature is out of range.
    """
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise InputError("top-k keeps between one and all classes", given=f"k={k}", expected=f"1 … {classes}")
    positive("temperature", temperature)
    values, indices = logits.detach().topk(k, dim=-1)
    rest = (as_float(logits.detach()) / temperature).scatter(-1, indices, -math.inf)
    return TopK(values, indices, torch.logsumexp(rest, dim=-1), classes, temperature)


def positive(name: str, value: float) -> float:
    """A finite number above 0.

    Raises:
        InputError: it is not.
    """
    if not (value > 0.0 and value < math.inf):
        raise InputError(f"{name} must be a finite number above 0", given=f"{name}={value}", expected=f"{name} > 0")
    return value


def as_float(tensor: Tensor) -> Tensor:
    """Half precision is computed in float32: the sums of a softmax do not survive 8 or 11 bits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def dense(teacher: Logits, loss: str) -> Tensor:
    """All logits of a teacher, without a graph.

    Raises:
        InputError: it gave only some of them, and this loss is not defined on those.
    """
    if isinstance(teacher, Tensor):
        return as_float(teacher.detach())
    if teacher.values.shape[-1] != teacher.classes:
        raise InputError(
            f"{loss} reads every logit of the teacher",
            given=f"the {teacher.values.shape[-1]} largest of {teacher.classes}",
            fix="use a divergence (soft_target, reverse_soft_target, jensen_shannon, skewed, …), or store all logits",
        )
    values = as_float(teacher.values.detach())
    return torch.empty_like(values).scatter(-1, teacher.indices, values)


def pair(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check that two logit tensors belong together, and put masked rows out of harm's way.

    Raises:
        InputError: their shapes differ, or there are no classes to compare.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim < 1 or student_logits.shape[-1] < 2:
        raise InputError(
            "student and teacher logits do not belong together",
            given=f"student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}",
            expected="the same shape (…, C) with C ≥ 2",
        )
    student, teacher = as_float(student_logits), as_float(teacher_logits.detach())
    if mask is not None:
        student, teacher = blank(student, mask), blank(teacher, mask)
    return student, teacher


def log_probabilities(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher over the same outcomes, at a temperature.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or its k largest.
        temperature: > 0.
        mask: (…) bool, True where a row counts.

    Returns:
        Both (…, C), or (…, k + 1) where the teacher kept k < C classes; the teacher's without a graph.

    Raises:
        InputError: shapes that do not belong together, a temperature out of range, or a top-k of another temperature.
    """
    positive("temperature", temperature)
    if isinstance(teacher_logits, Tensor):
        student, teacher = pair(student_logits, teacher_logits, mask)
        if temperature != 1.0:
            student, teacher = student / temperature, teacher / temperature
        return student.log_softmax(-1), teacher.log_softmax(-1)
    kept = teacher_logits
    k = kept.values.shape[-1]
    if student_logits.shape[-1] != kept.classes or student_logits.shape[:-1] != kept.values.shape[:-1]:
        raise InputError(
            "student logits and the teacher's top-k do not belong together",
            given=f"student {tuple(student_logits.shape)}, top-{k} of {kept.classes} {tuple(kept.values.shape)}",
            expected=f"student (…, {kept.classes}) with the same leading dimensions",
        )
    if k == kept.classes:
        whole = dense(kept, "")
        return log_probabilities(student_logits, whole, temperature=temperature, mask=mask)
    if kept.temperature != temperature:
        raise InputError(
            "the teacher's top-k was taken at another temperature",
            given=f"taken at {kept.temperature:g}, read at {temperature:g}",
            fix="take it at the temperature of the loss: top_k(logits, k, temperature=…)",
        )
    student, values, tail = as_float(student_logits), as_float(kept.values.detach()), as_float(kept.tail.detach())
    if mask is not None:
        student, values, tail = blank(student, mask), blank(values, mask), torch.where(mask, tail, 0.0)
    log_q = (student / temperature).log_softmax(-1)
    rest = log_q.scatter(-1, kept.indices, -math.inf)
    log_q = torch.cat([log_q.gather(-1, kept.indices), torch.logsumexp(rest, -1, keepdim=True)], -1)
    log_p = torch.cat([values / temperature, tail.unsqueeze(-1)], -1).log_softmax(-1)
    return log_q, log_p


def blank(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows that do not count become zeros before anything is computed: a NaN times 0 would still be a NaN."""
    if mask.dtype != torch.bool or mask.shape != rows.shape[:-1]:
        raise InputError(
            "the mask does not fit the logits",
            given=f"{mask.dtype} {tuple(mask.shape)}",
            expected=f"torch.bool {tuple(rows.shape[:-1])}, True where a row counts",
        )
    return torch.where(mask.unsqueeze(-1), rows, 0.0)


def average(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the rows that count; 0 with a graph where none does."""
    if mask is None:
        return values.mean()
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
