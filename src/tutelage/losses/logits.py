"""Losses on the last layer's numbers: labels, the teacher's choice, its logits, and these taken apart.

Sums run over classes, means over examples; T² multiplies what is computed at a temperature, never a loss on labels.

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
p = softmax(z_t / T) is the teacher, q = softmax(z_s / T) the student, y the label.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import soft_target
from tutelage.losses.targets import as_float, average, blank, dense, pair, positive
from tutelage.types import Logits, TopK

__all__ = ["cross_entropy", "decoupled", "dist", "hard_label", "logit_mse", "standardized"]


def cross_entropy(
    student_logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    smoothing: str = "all",
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with labels, or with probabilities where labels are mixed.

    Equation:
        mean over rows of −Σ_c w_c t_c log q_c, where t is the one-hot label or the given probabilities, smoothed to
        (1 − ε) t + ε / C ("all") or, for labels, to 1 − ε on the label and ε / (C − 1) on every other class ("others")

    Use:
        What the student learns from labels. Two definitions of smoothing are in use; "all" is PyTorch's.

    Args:
        student_logits: (…, C).
        target: labels (…) int64, or probabilities (…, C).
        label_smoothing: ε in [0, 1).
        smoothing: "all" or "others"; "others" needs labels.
        class_weights: (C,) used as given. The mean is over examples and is not divided by the sum of their weights, so
            an example's gradient does not depend on who else is in the batch (PyTorch divides).
        mask: (…) bool, True where a row counts.

    Returns:
        () nats per example. Its least value is the entropy of the target: 0 for labels without smoothing.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> cross_entropy(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([0]))
        tensor(1.5460)

    Reference:
        Szegedy and others 2015, arXiv 1512.00567, section 7 (smoothing over all classes).
    """
    logits = as_float(student_logits)
    soft = target.is_floating_point()
    if target.shape != (logits.shape if soft else logits.shape[:-1]):
        raise InputError(
            "logits and target do not belong together",
            given=f"logits {tuple(logits.shape)}, target {tuple(target.shape)} {target.dtype}",
            expected="labels of shape (…) int64, or probabilities of the logits' shape",
        )
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError("label_smoothing is a share", given=str(label_smoothing), expected="a number in [0, 1)")
    if smoothing not in ("all", "others") or (smoothing == "others" and soft):
        raise InputError(
            "this smoothing is not defined here",
            given=f"smoothing={smoothing!r} for {'probabilities' if soft else 'labels'}",
            expected='"all", or "others" with labels',
        )
    if mask is not None:
        logits = blank(logits, mask)
        target = blank(target, mask) if soft else torch.where(mask, target, 0)
    if not soft and label_smoothing == 0.0 and class_weights is None and mask is None and logits.ndim == 2:
        return F.cross_entropy(logits, target)
    log_q = logits.log_softmax(-1)
    classes = logits.shape[-1]
    shares = target.to(log_q.dtype) if soft else F.one_hot(target, classes).to(log_q.dtype)
    if label_smoothing and smoothing == "all":
        shares = (1.0 - label_smoothing) * shares + label_smoothing / classes
    elif label_smoothing:
        shares = (1.0 - label_smoothing) * shares + label_smoothing / (classes - 1) * (1.0 - shares)
    if class_weights is not None:
        shares = shares * class_weights.to(log_q.dtype)
    return average(-(shares * log_q).sum(-1), mask)


def hard_label(student_logits: Tensor, teacher_logits: Logits, *, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy with the class that the teacher would choose.

    Equation:
        mean over rows of −log softmax(z_s)_k,  k = argmax z_t

    Use:
        Where only the teacher's decisions are known or trusted, or as half of a sum with labels (DeiT). It throws away
        how sure the teacher was.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k.
        mask: (…) bool, True where a row counts.

    Returns:
        () nats per example; a cross-entropy, so it nears 0 only as the student becomes certain.

    Raises:
        InputError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> hard_label(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(1.5460)

    Reference:
        Touvron and others 2021 (DeiT), arXiv 2012.12877, equation 3.
    """
    if isinstance(teacher_logits, TopK):
        best = teacher_logits.values.argmax(-1, keepdim=True)
        chosen, classes = teacher_logits.indices.gather(-1, best).squeeze(-1), teacher_logits.classes
    else:
        chosen, classes = teacher_logits.detach().argmax(-1), teacher_logits.shape[-1]
    if (*chosen.shape, classes) != tuple(student_logits.shape):
        raise InputError(
            "student and teacher logits do not belong together",
            given=f"student {tuple(student_logits.shape)}, teacher {(*chosen.shape, classes)}",
            expected="the same shape (…, C)",
        )
    return cross_entropy(student_logits, chosen, mask=mask)


def logit_mse(student_logits: Tensor, teacher_logits: Logits, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of logits.

    Equation:
        mean over rows of (1/C) Σ_c (z_s,c − z_t,c)²

    Use:
        A strong and simple match when it is the only soft term. Unlike divergences it also pins each row's mean, which
        does not matter for any prediction; the paper sums over classes, its code and this function average.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C); top-k only with all classes.
        mask: (…) bool, True where a row counts.

    Returns:
        () squared logits per class. 0 where both agree. There is no temperature and no T².

    Raises:
        InputError: shapes that do not belong together, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> logit_mse(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(1.5225)

    Reference:
        Kim, Oh, Kim, Cho, Yun 2021, arXiv 2105.08919, equation 5; Ba, Caruana 2014, arXiv 1312.6184.
    """
    student, teacher = pair(student_logits, dense(teacher_logits, "logit_mse"), mask)
    return average((student - teacher).square().mean(-1), mask)


def decoupled(
    student_logits: Tensor,
    teacher_logits: Logits,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Decoupled distillation (DKD): how sure the teacher is of the label, and how it ranks the rest, weighed apart.

    Equation:
        T² · mean over rows of α KL(b_t ‖ b_s) + β KL(p̂ ‖ q̂), with b = (p_y, 1 − p_y), and p̂, q̂ the distributions over
        the other classes alone. With α = 1 and β = 1 − p_y it is `soft_target`.

    Use:
        Where classes resemble each other and the teacher is sure of itself, so that its ranking of the others would
        drown. β depends on the pair (2 to 8 in the paper for 100 classes); warm the weight up over the first epochs.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C); top-k only with all classes.
        labels: (…) int64.
        alpha: weight of the label's part, ≥ 0.
        beta: weight of the others' part, ≥ 0.
        temperature: T > 0.
        mask: (…) bool, True where a row counts.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> decoupled(student, teacher, torch.tensor([0]), beta=8.0, temperature=4.0)
        tensor(1.3033)

    Reference:
        Zhao, Cui, Song, Qiu, Liang 2022, arXiv 2203.08679, equation 7.
    """
    positive("temperature", temperature)
    if not (0.0 <= alpha < math.inf and 0.0 <= beta < math.inf):
        raise InputError("weights cannot be negative", given=f"alpha={alpha}, beta={beta}", expected="numbers ≥ 0")
    student, teacher = pair(student_logits, dense(teacher_logits, "decoupled"), mask)
    if labels.shape != student.shape[:-1] or labels.is_floating_point():
        raise InputError(
            "labels do not fit the logits",
            given=f"{tuple(labels.shape)} {labels.dtype}",
            expected=f"{tuple(student.shape[:-1])} int64",
        )
    if mask is not None:
        labels = torch.where(mask, labels, 0)
    at = labels.unsqueeze(-1)
    (b_s, rest_s), (b_t, rest_t) = (_apart(z / temperature, at) for z in (student, teacher))
    target_part = (b_t.exp() * (b_t - b_s)).sum(-1)
    # The label's own place holds −inf in both: 0 · (−inf + inf) is set to the 0 that it means.
    gap = (rest_t - rest_s).scatter(-1, at, 0.0)
    others_part = (rest_t.exp() * gap).sum(-1)
    return average(alpha * target_part + beta * others_part, mask) * temperature**2


def _apart(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 − p_y), and the log-probabilities among the other classes with −inf at the label.

    log(1 − p_y) is a difference of two logsumexp: from the sum of probabilities it would be −inf for a sure teacher.
    """
    others = logits.scatter(-1, at, -math.inf)
    rest = others.logsumexp(-1, keepdim=True)
    whole = logits.logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, at), rest], -1) - whole, others - rest


def standardized(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    temperature: float = 2.0,
    ddof: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Soft targets between standardised logits (LSKD): only their shape counts, not their size.

    Equation:
        T² · KL(softmax(Z(z_t) / T) ‖ softmax(Z(z_s) / T)),  Z(z) = (z − mean z) / (std z + 1e−7)

    Use:
        Where the student cannot reach the size of the teacher's logits. The paper's table gives it 9 to 18 times the
        weight of the plain loss; part of its gain is that weight.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C); top-k only with all classes.
        temperature: T > 0, the paper's base temperature.
        ddof: 1 divides the variance by C − 1 as the authors' code does, 0 by C as the paper writes.
        mask: (…) bool, True where a row counts.

    Returns:
        () nats per example, times T². 0 where both agree up to shift and scale.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> standardized(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.4592)

    Reference:
        Sun, Ren, Li, Wang, Cao 2024, arXiv 2403.01427, algorithm 1.
    """
    if ddof not in (0, 1):
        raise InputError("ddof is 0 or 1", given=str(ddof))
    student, teacher = pair(student_logits, dense(teacher_logits, "standardized"), mask)
    return soft_target(_z_score(student, ddof), _z_score(teacher, ddof), temperature=temperature, mask=mask)


def _z_score(logits: Tensor, ddof: int) -> Tensor:
    centred = logits - logits.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (logits.shape[-1] - ddof)
    return centred / (_root(variance) + 1e-7)


def _root(values: Tensor) -> Tensor:
    """Square root with the gradient 0 at 0, where the true one is infinite and would turn a constant row into NaN."""
    positive_ = values > 0
    return torch.where(positive_, torch.where(positive_, values, 1.0).sqrt(), 0.0)


def dist(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """DIST: correlation of probabilities, across classes for each example and across examples for each class.

    Equation:
        T² · (β · mean over rows of 1 − ρ(q_b, p_b)  +  γ · mean over classes of 1 − ρ(q_·c, p_·c)),  ρ Pearson's

    Use:
        Where the teacher is much stronger than the student: correlation forgives what the student cannot match
        exactly. The second part depends on who is in the batch, so batches should not be small. The paper gives each
        part the weight 2.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C); top-k only with all classes.
        beta: weight between classes, ≥ 0.
        gamma: weight within classes, ≥ 0.
        temperature: T > 0.
        mask: (…) bool, True where a row counts.

    Returns:
        () without a unit, times T². 0 where both agree. A row or column without any spread correlates with nothing: its
        ρ is 0, unless both are without, where it is 1.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> dist(student, teacher, gamma=0.0)
        tensor(1.0089)

    Reference:
        Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536, equations 8 to 10.
    """
    positive("temperature", temperature)
    if not (0.0 <= beta < math.inf and 0.0 <= gamma < math.inf):
        raise InputError("weights cannot be negative", given=f"beta={beta}, gamma={gamma}", expected="numbers ≥ 0")
    student, teacher = pair(student_logits, dense(teacher_logits, "dist"), mask)
    classes = student.shape[-1]
    q, p = ((z / temperature).softmax(-1).reshape(-1, classes) for z in (student, teacher))
    counts = None if mask is None else mask.reshape(-1)
    total = student.sum() * 0.0  # what an all-masked batch gives: a zero with a graph
    if beta:
        total = total + beta * average(1.0 - _correlation(q, p, None), counts)
    if gamma and (counts is None or bool(counts.any())):
        total = total + gamma * (1.0 - _correlation(q.T, p.T, counts)).mean()
    return total * temperature**2


def _correlation(a: Tensor, b: Tensor, counts: Tensor | None) -> Tensor:
    """Pearson's ρ along the last dimension, over the places that count."""
    share = torch.ones_like(a[:1]) if counts is None else counts.to(a.dtype).unsqueeze(0)
    number = share.sum(-1, keepdim=True)
    a = (a - (a * share).sum(-1, keepdim=True) / number) * share
    b = (b - (b * share).sum(-1, keepdim=True) / number) * share
    size_a, size_b = _root(a.square().sum(-1)), _root(b.square().sum(-1))
    # Below this a spread is rounding, not signal; dividing by it would make noise of it.
    still_a, still_b = size_a < 1e-8, size_b < 1e-8
    still = still_a | still_b
    rho = (a * b).sum(-1) / torch.where(still, 1.0, size_a * size_b)
    return torch.where(still, (still_a & still_b).to(a.dtype), rho)
