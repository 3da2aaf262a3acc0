"""Losses for which only the shape of the teacher's answer counts, not its size: standardised logits, correlations.

Both divide by a spread, which for a row of equal numbers is 0. There the shape is undefined; the value is then that of
a flat row, and the gradient that of the undivided numbers: finite, and pointing the way out (a zero-initialised last
layer starts exactly there).

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
p = softmax(z_t / T) is the teacher, q = softmax(z_s / T) the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import soft_target
from tutelage.losses.targets import average, dense, pair, positive
from tutelage.types import Logits

__all__ = ["dist", "standardized"]

# A spread of fewer than this many roundings is no signal.
_ROUNDINGS = 8.0


def standardized(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    temperature: float = 2.0,
    ddof: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Soft targets between standardised logits (LSKD): their shape counts, not their size; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of KL(softmax(Z(z_t) / T) ‖ softmax(Z(z_s) / T)),  Z(z) = (z − mean z) / (std z + 1e−7)

    Use:
        Where the student cannot reach the size of the teacher's logits. Not where its confidence should follow the
        teacher's: size is what it is free to choose. The paper gives it 9 to 18 times the weight of the plain loss;
        part of its gain is that weight.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        temperature: T > 0, no unit, on top of the standard deviation; the paper's base temperature.
        ddof: 1 divides the variance by C − 1 as the authors' code does, 0 by C as the paper writes.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree up to shift and scale. A row of equal logits stands for the
        uniform distribution.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> standardized(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.4592)

    Reference:
        Sun, Ren, Li, Wang, Cao 2024, arXiv 2403.01427, algorithm 1.
    """
    if ddof not in (0, 1):
        raise InputError("ddof is what the variance leaves out", given=f"ddof={ddof}", expected="0 or 1")
    positive("temperature", temperature)
    student, teacher = pair(student_logits, dense(teacher_logits, "standardized", mask), mask)
    return soft_target(_z_score(student, ddof), _z_score(teacher, ddof), temperature=temperature, mask=mask)


def _z_score(logits: Tensor, ddof: int) -> Tensor:
    variance, mean = torch.var_mean(logits, -1, correction=ddof, keepdim=True)
    with torch.no_grad():
        flat = variance <= (_ROUNDINGS * torch.finfo(logits.dtype).eps * (1.0 + mean.abs())).square()
    # The square root of 0 has no gradient; of 1 it has one, which the second `where` then drops.
    spread = torch.where(flat, 1.0, torch.where(flat, 1.0, variance).sqrt() + 1e-7)
    return (logits - mean) / spread


def dist(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """DIST: correlation of probabilities, within examples and within classes; (…, C) and (…, C) → ().

    Equation:
        T² · (β · mean over rows of 1 − ρ(q_b, p_b)  +  γ · mean over classes of 1 − ρ(q_·c, p_·c)),  ρ Pearson's

    Use:
        Where the teacher is much stronger than the student: correlation forgives what the student cannot match
        exactly. Not with small batches, as the second part compares examples with each other, nor in chunks. The paper
        gives each part the weight 2.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        beta: weight of the correlation across the classes of an example, ≥ 0.
        gamma: weight of the correlation across the examples of a class, ≥ 0.
        temperature: T > 0, no unit. A correlation does not fade as T rises, so with the paper's T² the gradient grows
            as T²; the paper has T = 1 for ImageNet and 4 for CIFAR-100.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () without a unit, times T², at most 2 T² (β + γ). 0 where both agree. A row or column without any spread
        correlates with nothing: its ρ is 0, or 1 where both are without; so a single example has no second part.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 0.5, 0.0], [0.5, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
        >>> teacher = torch.tensor([[3.0, 1.0, 0.2, -1.0], [0.0, 2.0, 1.0, 0.0], [-1.0, 0.0, 1.0, 2.0]])
        >>> dist(student, teacher)
        tensor(0.8376)

    Reference:
        Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536, the losses L_inter and L_intra.
    """
    positive("temperature", temperature)
    if not (0.0 <= beta < math.inf and 0.0 <= gamma < math.inf):
        raise InputError("weights cannot be negative", given=f"beta={beta}, gamma={gamma}", expected="numbers ≥ 0")
    student, teacher = pair(student_logits, dense(teacher_logits, "dist", mask), mask)
    classes = student.shape[-1]
    q, p = ((z / temperature).softmax(-1).reshape(-1, classes) for z in (student, teacher))
    counts = None if mask is None else mask.reshape(-1)
    across_classes = average(1.0 - _correlation(q, p, None), counts)
    across_rows = 1.0 - _correlation(q.T, p.T, counts).mean()
    return (beta * across_classes + gamma * across_rows) * temperature**2


def _correlation(a: Tensor, b: Tensor, counts: Tensor | None) -> Tensor:
    """Pearson's ρ along the last dimension, over the places that count."""
    (a, flat_a), (b, flat_b) = _direction(a, counts), _direction(b, counts)
    return torch.where(flat_a & flat_b, 1.0, (a * b).sum(-1))


def _direction(values: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centred and of length 1, and where there was no spread to give a direction: there centred only."""
    if counts is None:
        centred = values - values.mean(-1, keepdim=True)
    else:
        share = counts.to(values.dtype)
        mean = (values * share).sum(-1, keepdim=True) / share.sum().clamp(min=1.0)
        centred = (values - mean) * share
    square = centred.square().sum(-1)
    with torch.no_grad():
        rounding = _ROUNDINGS * torch.finfo(values.dtype).eps
        # Below 1e−24 the gradient of the root would leave float32.
        flat = square <= (values.square().sum(-1) * rounding**2).clamp(min=1e-24)
    length = torch.where(flat, 1.0, square).sqrt()
    return centred / length.unsqueeze(-1), flat
