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
from tutelage.types import Logits, Sampled, TopK

__all__ = [
    "as_float",
    "average",
    "blank",
    "check_labels",
    "check_logits",
    "check_mask",
    "dense",
    "drawn",
    "log_probabilities",
    "pair",
    "positive",
    "refuse_labels",
    "top_k",
]


def top_k(logits: Tensor, k: int, *, temperature: float = 1.0) -> TopK:
    """Keep the k largest logits of every row, and the mass of the others at a temperature; (…, C) → k of C.

    Args:
        logits: (…, C).
        k: 1 … C; with k = C nothing is left out, and losses give what they give for the whole logits.
        temperature: at which losses will read it, > 0.

    Returns:
        The k values as they were, largest first, their classes, and logsumexp(others / temperature).

    Raises:
        InputError: there are no logits, or k or the temperature is out of range.

    Example:
        >>> import torch
        >>> top_k(torch.tensor([3.0, 1.0, 0.2, -1.0]), 2).tail
        tensor(0.4633)
    """
    check_logits(logits, "logits")
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise InputError("top-k keeps between one and all classes", given=f"k={k}", expected=f"1 … {classes}")
    positive("temperature", temperature)
    values, indices = logits.detach().topk(k, dim=-1)
    rest = (as_float(logits.detach()) / temperature).scatter(-1, indices, -math.inf)
    return TopK(values, indices, torch.logsumexp(rest, dim=-1), classes, temperature)


def positive(name: str, value: float) -> None:
    """Require a finite number above 0.

    Raises:
        InputError: it is not.
    """
    if not 0.0 < value < math.inf:
        raise InputError(f"{name} must be a finite number above 0", given=f"{name}={value}", expected=f"{name} > 0")


def check_logits(logits: Tensor, name: str) -> None:
    """Require rows of at least two numbers.

    Raises:
        InputError: whole numbers, no rows, or no classes to choose from.
    """
    if not logits.is_floating_point() or logits.ndim < 1 or logits.shape[-1] < 2 or logits.numel() == 0:
        raise InputError(
            f"{name} cannot be logits",
            given=f"shape {tuple(logits.shape)}, {logits.dtype}",
            expected="floating-point numbers of shape (…, C) with C ≥ 2 and at least one row",
        )


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Require one class number for each row. Their range is left to the lookup, which sees it without a sync.

    Raises:
        InputError: another shape or another type.
    """
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:-1]:
        raise InputError(
            "labels do not fit the logits",
            given=f"labels {tuple(labels.shape)} {labels.dtype}, logits {tuple(logits.shape)}",
            expected=f"class numbers of shape {tuple(logits.shape[:-1])}, torch.int64",
        )


def refuse_labels(error: Exception, labels: Tensor, classes: int) -> None:
    """Say in the user's words what a failed lookup of labels means; other errors are left to the caller.

    Raises:
        InputError: a label is not a class number.
    """
    if "out of bounds" not in str(error):
        return
    low, high = (int(bound) for bound in labels.aminmax())
    raise InputError(
        "a label is not a class number",
        given=f"labels from {low} to {high}",
        expected=f"0 … {classes - 1}",
        fix="rows to leave out are named by mask=, for instance mask=labels != -100" if low < 0 else None,
    ) from error


def check_mask(mask: Tensor, rows: torch.Size) -> None:
    """Require a truth value for each row.

    Raises:
        InputError: another shape or another type.
    """
    if mask.dtype != torch.bool or mask.shape != rows:
        raise InputError(
            "the mask does not fit the logits",
            given=f"{tuple(mask.shape)} {mask.dtype}",
            expected=f"{tuple(rows)} torch.bool, True where a row counts",
        )


def as_float(tensor: Tensor) -> Tensor:
    """Half precision is computed in float32: the sums of a softmax do not survive 8 or 11 bits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def blank(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows that do not count become zeros before anything is computed: a NaN times 0 would still be a NaN."""
    check_mask(mask, rows.shape[:-1])
    return torch.where(mask.unsqueeze(-1), rows, 0.0)


def average(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the rows that count; 0 with a graph where none does."""
    if mask is None:
        return values.mean()
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def dense(teacher: Logits, loss: str, mask: Tensor | None = None) -> Tensor:
    """All logits of a teacher, without a graph.

    Raises:
        InputError: it gave only some of them, and this loss is not defined on those.
    """
    if isinstance(teacher, Tensor):
        return as_float(teacher.detach())
    if isinstance(teacher, Sampled):
        raise InputError(
            f"{loss} reads every logit of the teacher",
            given=f"classes drawn from its distribution, {teacher.indices.shape[-1]} at most",
            expected="all logits",
            fix="drawn classes are read by soft_target",
        )
    kept = teacher.values.shape[-1]
    if kept != teacher.classes:
        raise InputError(
            f"{loss} reads every logit of the teacher",
            given=f"the {kept} largest of {teacher.classes}",
            expected="all logits",
            fix="top-k is read by soft_target, reverse_soft_target, jensen_shannon, skewed, skewed_reverse, "
            "transformed_teacher, hard_label",
        )
    values = as_float(teacher.values.detach())
    return torch.zeros_like(values).scatter(-1, _places(teacher, mask), values)


def pair(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check that two logit tensors belong together, and put masked rows out of harm's way.

    Raises:
        InputError: their shapes differ, or one of them cannot be logits.
    """
    check_logits(student_logits, "student_logits")
    if student_logits.shape != teacher_logits.shape or not teacher_logits.is_floating_point():
        raise InputError(
            "student and teacher logits do not belong together",
            given=f"student {tuple(student_logits.shape)}, "
            f"teacher {tuple(teacher_logits.shape)} {teacher_logits.dtype}",
            expected="floating-point numbers of the same shape (…, C)",
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
    if isinstance(teacher_logits, Sampled):
        raise InputError(
            "drawn classes stand for the teacher's distribution only where it enters linearly",
            given="a divergence that takes its logarithm, or mixes it with the student's",
            expected="soft_target",
            fix="keep all logits, or the k largest",
        )
    if isinstance(teacher_logits, TopK):
        if teacher_logits.values.shape[-1] < teacher_logits.classes:
            return _with_tail(student_logits, teacher_logits, temperature, mask)
        teacher_logits = dense(teacher_logits, "", mask)
    student, teacher = pair(student_logits, teacher_logits, mask)
    if temperature != 1.0:
        student, teacher = student / temperature, teacher / temperature
    return student.log_softmax(-1), teacher.log_softmax(-1)


def drawn(
    student_logits: Tensor, teacher: Sampled, *, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The student's log-probabilities of the drawn classes, and the share of the draws that each one got; (…, n) both.

    Raises:
        InputError: shapes that do not belong together, or draws at another temperature.
    """
    positive("temperature", temperature)
    check_logits(student_logits, "student_logits")
    rows = student_logits.shape[:-1]
    if (
        student_logits.shape[-1] != teacher.classes
        or teacher.indices.shape != teacher.weights.shape
        or teacher.indices.shape[:-1] != rows
    ):
        raise InputError(
            "student logits and the teacher's drawn classes do not belong together",
            given=f"student {tuple(student_logits.shape)}, indices {tuple(teacher.indices.shape)} and weights "
            f"{tuple(teacher.weights.shape)} of {teacher.classes} classes",
            expected=f"student (…, {teacher.classes}), with the same leading dimensions in all three",
        )
    if teacher.temperature != temperature:
        raise InputError(
            "the teacher's classes were drawn at another temperature",
            given=f"drawn at {teacher.temperature:g}, read at {temperature:g}",
            expected="one temperature: the draws are of the distribution at that temperature",
        )
    student, weights, indices = as_float(student_logits), teacher.weights.detach(), teacher.indices
    if mask is not None:
        student = blank(student, mask)
        weights, indices = torch.where(mask.unsqueeze(-1), weights, 0.0), torch.where(mask.unsqueeze(-1), indices, 0)
    return (student / temperature).log_softmax(-1).gather(-1, indices), weights.to(student.dtype)


def _with_tail(student_logits: Tensor, kept: TopK, temperature: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the k kept classes and of all others together."""
    check_logits(student_logits, "student_logits")
    rows, k = student_logits.shape[:-1], kept.values.shape[-1]
    if student_logits.shape[-1] != kept.classes or kept.values.shape[:-1] != rows or kept.tail.shape != rows:
        raise InputError(
            "student logits and the teacher's top-k do not belong together",
            given=f"student {tuple(student_logits.shape)}, top-{k} of {kept.classes} {tuple(kept.values.shape)}, "
            f"tail {tuple(kept.tail.shape)}",
            expected=f"student (…, {kept.classes}), with the same leading dimensions in all three",
        )
    if kept.temperature != temperature:
        raise InputError(
            "the teacher's top-k was taken at another temperature",
            given=f"taken at {kept.temperature:g}, read at {temperature:g}",
            expected="one temperature: the mass of the tail depends on it",
            fix="take it at the temperature of the loss: top_k(logits, k, temperature=…)",
        )
    student, values, tail = as_float(student_logits), as_float(kept.values.detach()), as_float(kept.tail.detach())
    if mask is not None:
        student, values, tail = blank(student, mask), blank(values, mask), torch.where(mask, tail, 0.0)
    places = _places(kept, mask)
    log_q = (student / temperature).log_softmax(-1)
    others = log_q.scatter(-1, places, -math.inf).logsumexp(-1, keepdim=True)
    log_q = torch.cat([log_q.gather(-1, places), others], -1)
    log_p = torch.cat([values / temperature, tail.unsqueeze(-1)], -1).log_softmax(-1)
    return log_q, log_p


def _places(kept: TopK, mask: Tensor | None) -> Tensor:
    """The kept classes; those of rows that do not count may be any number, so they become 0."""
    if kept.indices.shape != kept.values.shape or kept.indices.dtype != torch.int64:
        raise InputError(
            "a top-k has one class number for each value",
            given=f"values {tuple(kept.values.shape)}, indices {tuple(kept.indices.shape)} {kept.indices.dtype}",
            expected="the same shape, indices torch.int64",
        )
    if mask is None:
        return kept.indices
    check_mask(mask, kept.indices.shape[:-1])
    return torch.where(mask.unsqueeze(-1), kept.indices, 0)
