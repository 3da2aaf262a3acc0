"""Soft targets that are weighed again: by part, by class, by example, or without a teacher at all.

Plain soft targets let the teacher's most probable class decide. Here the label's share and the others are taken apart,
examples that the student knows less well count more, the label's own share is raised, the two directions of the
divergence share the work, or the teacher is a formula. A weight that depends on the student is held fixed: it says how
much a row counts, and no gradient flows through it.

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
p = softmax(z_t / T) is the teacher, q = softmax(z_s / T) the student, y the label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import check_share, divergence
from tutelage.losses.targets import (
    as_float,
    average,
    blank,
    check_labels,
    check_logits,
    dense,
    pair,
    positive,
    refuse_labels,
)
from tutelage.types import Logits

__all__ = [
    "adaptive_kl",
    "at_label",
    "check_weight",
    "looked_up",
    "normalized",
    "one_for_all",
    "teacher_free",
    "weighted_soft_target",
]


def normalized(
    student_logits: Tensor,
    teacher_logits: Logits,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalised distillation (NKD): the label's share, and the others made to add up to 1; (…, C), (…, C), (…) → ().

    Equation:
        mean over rows of −p_y log q_y + γ T² · (−Σ_{c≠y} p̂_c log q̂_c), with p_y and q_y at temperature 1, and p̂, q̂ the
        distributions over the other classes alone, at temperature T

    Use:
        Beside `cross_entropy` of weight 1, which is not part of it. Not as a measure of agreement: both parts are
        cross-entropies, so it is not 0 at a match, and the first falls on until the student is certain of the label.
        Not for mixed examples, which have no one label.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        gamma: γ ≥ 0, the weight of the others' part; the authors have 1.5, and 1 for transformers.
        temperature: T > 0, no unit, of the others' part only.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. At least γ T² times the entropy of p̂, so never 0 unless C is 2.

    Raises:
        InputError: shapes that do not belong together, an option out of range, a label that is not a class, or a top-k
            that left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> normalized(student, teacher, torch.tensor([0]))
        tensor(2.6267)

    Reference:
        Yang, Zeng, Yuan, Li 2023, arXiv 2303.13005, the loss L_nkd without its first term.
    """
    positive("temperature", temperature)
    check_weight("gamma", gamma)
    student, teacher = pair(student_logits, dense(teacher_logits, "normalized", mask), mask)
    at = at_label(labels, student, mask)
    with looked_up(at, student):
        target_part = teacher.softmax(-1).gather(-1, at) * -student.log_softmax(-1).gather(-1, at)
        # The label's own place holds −∞ in both: the 0 · ∞ there is set to the 0 that it means.
        log_q, log_p = ((z / temperature).scatter(-1, at, -math.inf).log_softmax(-1) for z in (student, teacher))
        others_part = -(log_p.exp() * log_q.scatter(-1, at, 0.0)).sum(-1)
    return average(target_part.squeeze(-1) + gamma * temperature**2 * others_part, mask)


def weighted_soft_target(
    student_logits: Tensor,
    teacher_logits: Logits,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Weighted soft targets (WSLD): less where the student beats the teacher; (…, C), (…, C) and (…) → ().

    Equation:
        T² · mean over rows of w KL(p ‖ q),  w = 1 − exp(−CE_s / (CE_t + 1e−7)), the cross-entropies of both with the
        label at temperature 1; w is held fixed

    Use:
        Where the teacher is wrong or unsure about examples that the student already knows: there w nears 0. Not for
        mixed examples, which have no one label. The paper writes the cross-entropy with p for KL(p ‖ q); as w is held
        fixed, the gradient is the same. Its weight for ImageNet is 2.5.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        temperature: T > 0, no unit; not that of the weight, which is 1.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree; at most `soft_target`.

    Raises:
        InputError: shapes that do not belong together, a temperature that is not above 0, a label that is not a class,
            or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> weighted_soft_target(student, teacher, torch.tensor([0]))
        tensor(0.9670)

    Reference:
        Zhou and others 2021, arXiv 2102.00650, the weighted soft labels.
    """
    positive("temperature", temperature)
    student, teacher = pair(student_logits, dense(teacher_logits, "weighted_soft_target", mask), mask)
    at = at_label(labels, student, mask)
    with looked_up(at, student), torch.no_grad():
        own, theirs = (-z.log_softmax(-1).gather(-1, at).squeeze(-1) for z in (student, teacher))
        weight = -torch.expm1(-own / (theirs + 1e-7))
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    return average(weight * divergence(log_p, log_q), mask) * temperature**2


def one_for_all(
    student_logits: Tensor, teacher_logits: Logits, labels: Tensor, *, gamma: float = 1.5, mask: Tensor | None = None
) -> Tensor:
    """One for all (OFA): soft targets with the label's share raised to a power; (…, C), (…, C) and (…) → ().

    Equation:
        mean over rows of −Σ_c ((p_c + [c = y])^γ − [c = y]) log q_c, both at temperature 1

    Use:
        Where teacher and student are built so differently that the teacher's view of the other classes misleads: above
        1, γ strengthens the label and weakens classes of little probability. Not as a measure of agreement: it is a
        cross-entropy. Not for mixed examples.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        gamma: γ > 0; 1 is the cross-entropy with the teacher's probabilities. The authors use 1 to 1.5.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. Not 0 at a match. No temperature and no T².

    Raises:
        InputError: shapes that do not belong together, γ out of range, a label that is not a class, or a top-k that
            left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> one_for_all(student, teacher, torch.tensor([0]), gamma=1.5)
        tensor(2.3086)

    Reference:
        Hao and others 2023, arXiv 2310.19444, the loss L_OFA.
    """
    positive("gamma", gamma)
    student, teacher = pair(student_logits, dense(teacher_logits, "one_for_all", mask), mask)
    at = at_label(labels, student, mask)
    with looked_up(at, student):
        p = teacher.softmax(-1)
        shares = p.pow(gamma).scatter(-1, at, (1.0 + p.gather(-1, at)).pow(gamma) - 1.0)
    return average(-(shares * student.log_softmax(-1)).sum(-1), mask)


def adaptive_kl(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    head: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Adaptive divergence (AKL): forward for errors in the head, reverse for the tail; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of w KL(p ‖ q) + (1 − w) KL(q ‖ p),  w = Σ_head |p_c − q_c| / Σ_c |p_c − q_c|; the head is
        the teacher's likeliest class, and the next ones for as long as all hold at most μ together; w is held fixed

    Use:
        For text and a short training: the forward direction mends the teacher's main answers first, the reverse one the
        tail, and each row gets more of what it needs. Not where memory is short and classes are many: every row is
        sorted.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        head: μ in (0, 1), how much of the teacher's probability the head may hold.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree. Between `soft_target` and `reverse_soft_target` for one row.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> adaptive_kl(torch.tensor([[0.25, 0.35, 0.1, 0.3]]).log(), torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log())
        tensor(0.1889)

    Reference:
        Wu and others 2024, arXiv 2404.02657, the adaptive Kullback–Leibler divergence; T² is ours, as in `soft_target`.
    """
    positive("temperature", temperature)
    check_share("head", head)
    student, teacher = pair(student_logits, dense(teacher_logits, "adaptive_kl", mask), mask)
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    weight = _head_share(log_p, log_q.detach(), head)
    values = weight * divergence(log_p, log_q) + (1.0 - weight) * divergence(log_q, log_p)
    return average(values, mask) * temperature**2


def _head_share(log_p: Tensor, log_q: Tensor, most: float) -> Tensor:
    """What part of Σ |p − q| lies in the teacher's head; ½ where there is no difference to share."""
    log_p, order = log_p.sort(dim=-1, descending=True, stable=True)
    error = (log_p.exp() - log_q.gather(-1, order).exp()).abs()
    # Not `cumsum`, which deterministic runs refuse on a graphics card.
    tail = log_p.logcumsumexp(-1) > math.log(most)
    tail[..., 0] = False
    whole = error.sum(-1)
    return torch.where(whole > 0, error.masked_fill(tail, 0.0).sum(-1) / torch.where(whole > 0, whole, 1.0), 0.5)


def teacher_free(
    student_logits: Tensor,
    labels: Tensor,
    *,
    certainty: float = 0.99,
    temperature: float = 20.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Teacher-free distillation (Tf-KD): a teacher written by hand, sure of the label; (…, C) and (…) → ().

    Equation:
        T² · mean over rows of KL(softmax(log u / T) ‖ q),  u_y = a and u_c = (1 − a) / (C − 1) for the other classes

    Use:
        As a control: what a soft target gives by being soft alone, with nothing known about classes. Not in place of a
        teacher that is there. At T = 1 its gradient is that of `cross_entropy` smoothed over the others by 1 − a.

    Args:
        student_logits: (…, C).
        labels: (…) int64 in 0 … C − 1.
        certainty: a in (0, 1), what the teacher gives to the label; above 1 / C, or it teaches against the label.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where the student says u.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a label that is not a class.

    Example:
        >>> import torch
        >>> teacher_free(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([0]))
        tensor(3.4016)

    Reference:
        Yuan and others 2020, arXiv 1909.11723, the loss Tf-KD_reg; T² is ours, as in `soft_target`.
    """
    positive("temperature", temperature)
    check_share("certainty", certainty)
    check_logits(student_logits, "student_logits")
    student = as_float(student_logits) if mask is None else blank(as_float(student_logits), mask)
    at = at_label(labels, student, mask)
    others = student.shape[-1] - 1
    sure, rest = math.log(certainty) / temperature, math.log((1.0 - certainty) / others) / temperature
    top = max(sure, rest)
    whole = top + math.log(math.exp(sure - top) + others * math.exp(rest - top))
    with looked_up(at, student):
        log_u = torch.full_like(student, rest - whole, requires_grad=False).scatter(-1, at, sure - whole)
    return average(divergence(log_u, (student / temperature).log_softmax(-1)), mask) * temperature**2


def at_label(labels: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Where each row's label stands, (…, 1); class 0 for rows that do not count.

    Raises:
        InputError: labels of another shape or type. Their range is left to the lookup.
    """
    check_labels(labels, logits)
    return (labels if mask is None else torch.where(mask, labels, 0)).unsqueeze(-1)


@contextmanager
def looked_up(labels: Tensor, logits: Tensor) -> Iterator[None]:
    """Around lookups of labels: a failed one is said in the user's words.

    Raises:
        InputError: a label is not a class number.
    """
    try:
        yield
    except (IndexError, RuntimeError) as error:
        refuse_labels(error, labels, logits.shape[-1])
        raise


def check_weight(name: str, value: float) -> None:
    """Require a finite number that is not negative.

    Raises:
        InputError: it is not.
    """
    if not 0.0 <= value < math.inf:
        raise InputError(f"{name} cannot be negative", given=f"{name}={value}", expected=f"{name} ≥ 0")
