"""Soft targets: how far the student's distribution is from the teacher's, measured in five ways.

All of them compare softmax(z / T) of both, sum over classes, average over examples and multiply by T². The factor keeps
the gradient's size when T changes (it falls as 1/T² without), so that a weight means the same at every temperature.
All of them take the teacher's whole logits or its k largest, and a mask.

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
p = softmax(z_t / T) is the teacher, q = softmax(z_s / T) the student.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import average, drawn, log_probabilities
from tutelage.types import Logits, Sampled

__all__ = ["jensen_shannon", "reverse_soft_target", "skewed", "skewed_reverse", "soft_target"]


def soft_target(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Soft targets: KL(teacher ‖ student), the classic knowledge distillation; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of Σ_c p_c (log p_c − log q_c)

    Use:
        The baseline that everything else must beat. Not where an example has several labels at once: there each class
        is a distribution of its own.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), top-k, or drawn classes, whose gradient is right in the mean over draws; no gradient
            reaches it.
        temperature: T > 0, no unit; higher shows more of how the teacher ranks the wrong classes. 1 to 4 is usual.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: shapes that do not belong together, or a temperature that is not above 0 or not that of the top-k.

    Example:
        >>> import torch
        >>> soft_target(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]), temperature=4.0)
        tensor(0.9056)

    Reference:
        Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    if isinstance(teacher_logits, Sampled):
        log_q, shares = drawn(student_logits, teacher_logits, temperature=temperature, mask=mask)
        # Not in log space: a class that was not drawn has the logarithm −∞, and 0 · ∞ is no number.
        return average(F.kl_div(log_q, shares, reduction="none").sum(-1), mask) * temperature**2
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature=temperature, mask=mask)
    return average(divergence(log_p, log_q), mask) * temperature**2


def reverse_soft_target(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Reverse soft targets: KL(student ‖ teacher); (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of Σ_c q_c (log q_c − log p_c)

    Use:
        Where a small student should settle on the teacher's main answer and leave the rest, as in text generation. Not
        the first choice for classification: there the forward one is safer.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k; no gradient reaches it.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: shapes that do not belong together, or a temperature that is not above 0 or not that of the top-k.

    Example:
        >>> import torch
        >>> reverse_soft_target(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.9185)

    Reference:
        Gu, Dong, Wei, Huang 2023 (MiniLLM), arXiv 2306.08543, section 2.1; T² is ours, as in `soft_target`.
    """
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature=temperature, mask=mask)
    return average(divergence(log_q, log_p), mask) * temperature**2


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    mix: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Generalised Jensen–Shannon divergence: both against their mixture, hence bounded; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of β KL(p ‖ m) + (1 − β) KL(q ‖ m),  m = β p + (1 − β) q

    Use:
        Where forward and reverse should balance, and no single example should dominate. Not with β near 0 or 1 in place
        of one of the two: there the value goes to 0, and only divided by β or 1 − β to one of them.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k; no gradient reaches it.
        mix: β in (0, 1).
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree; at most T² log 2 for β = 0.5.

    Raises:
        InputError: β outside (0, 1), shapes that do not belong together, or a temperature that is not above 0 or not
            that of the top-k.

    Example:
        >>> import torch
        >>> jensen_shannon(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.2035)

    Reference:
        Agarwal and others 2023 (GKD), arXiv 2306.13649, equation 1; T² is ours, as in `soft_target`.
    """
    check_share("mix", mix)
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature=temperature, mask=mask)
    log_m = _mixture(log_p, log_q, mix)
    values = mix * divergence(log_p, log_m) + (1.0 - mix) * divergence(log_q, log_m)
    return average(values, mask) * temperature**2


def skewed(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Skewed soft targets: the teacher against a mixture with a little of itself; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of KL(p ‖ α p + (1 − α) q)

    Use:
        Where classes that the student all but excludes make the forward divergence explode: its value is at most
        −T² log α. Not where that does not happen: the mixture also makes the gradient smaller.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k; no gradient reaches it.
        skew: α in (0, 1), the teacher's share of the mixture.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: α outside (0, 1), shapes that do not belong together, or a temperature that is not above 0 or not
            that of the top-k.

    Example:
        >>> import torch
        >>> skewed(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]), skew=0.1)
        tensor(0.6634)

    Reference:
        Ko, Kim, Chen, Yun 2024 (DistiLLM), arXiv 2402.03898, section 3.1; T² is ours, as in `soft_target`.
    """
    check_share("skew", skew)
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature=temperature, mask=mask)
    return average(divergence(log_p, _mixture(log_p, log_q, skew)), mask) * temperature**2


def skewed_reverse(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Skewed reverse soft targets: the student against a mixture with a little of itself; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of KL(q ‖ (1 − α) p + α q)

    Use:
        Where the reverse divergence fits, but the teacher's near-zero probabilities make it explode: this one's value
        is at most −T² log α. Not where that does not happen: the mixture also makes the gradient smaller.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k; no gradient reaches it.
        skew: α in (0, 1), the student's share of the mixture.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: α outside (0, 1), shapes that do not belong together, or a temperature that is not above 0 or not
            that of the top-k.

    Example:
        >>> import torch
        >>> skewed_reverse(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]), skew=0.1)
        tensor(0.6854)

    Reference:
        Ko, Kim, Chen, Yun 2024 (DistiLLM), arXiv 2402.03898, section 3.1; T² is ours, as in `soft_target`.
    """
    check_share("skew", skew)
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature=temperature, mask=mask)
    return average(divergence(log_q, _mixture(log_q, log_p, skew)), mask) * temperature**2


def divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) of each row, in log space: a probability that underflows to 0 still has a finite logarithm."""
    return F.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 − share) · b)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def check_share(name: str, value: float) -> None:
    """Require a number between 0 and 1, neither of them.

    Raises:
        InputError: it is not.
    """
    if not 0.0 < value < 1.0:
        raise InputError(f"{name} is a share", given=f"{name}={value}", expected="a number in (0, 1)")
