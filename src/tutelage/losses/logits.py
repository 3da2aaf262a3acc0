"""Losses on the last layer's numbers: labels, the teacher's choice, its logits, and the divergence taken apart.

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
from tutelage.losses.targets import (
    as_float,
    average,
    blank,
    check_labels,
    check_logits,
    check_mask,
    dense,
    pair,
    positive,
    refuse_labels,
)
from tutelage.types import Logits, Sampled, TopK

__all__ = ["cross_entropy", "decoupled", "hard_label", "logit_mse"]

# PyTorch skips the label −100 and divides by the rest. Here nothing is skipped unsaid: no label has this number.
_IGNORE_NOTHING = torch.iinfo(torch.int64).min


def cross_entropy(
    student_logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    smoothing: str = "all",
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with labels, or with probabilities where examples are mixed; (…, C) and (…) or (…, C) → ().

    Equation:
        mean over rows of −Σ_c w_c t_c log q_c, where t is the one-hot label or the given probabilities, smoothed to
        (1 − ε) t + ε / C ("all") or, for labels, to 1 − ε on the label and ε / (C − 1) on every other class ("others")

    Use:
        What the student learns from labels. Not for examples with several labels at once: probabilities add up to 1.

    Args:
        student_logits: (…, C).
        target: labels (…) int64 in 0 … C − 1, or probabilities (…, C).
        label_smoothing: ε in [0, 1), a share of probability.
        smoothing: "all" (PyTorch's definition) or "others"; "others" needs labels.
        class_weights: (C,) ≥ 0, used as given. The mean is over examples and is not divided by the sum of the weights
            of the batch as PyTorch's is, so an example's gradient does not depend on who else is in the batch.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. Its least value is the entropy of the target: 0 for labels without smoothing. No T².

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a label that is not a class.

    Example:
        >>> import torch
        >>> cross_entropy(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([0]))
        tensor(1.5460)

    Reference:
        Szegedy and others 2015, arXiv 1512.00567, section 7 (smoothing over all classes).
    """
    logits, classes = as_float(student_logits), student_logits.shape[-1] if student_logits.ndim else 0
    soft = target.is_floating_point()
    _check_target(logits, target, soft)
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError("label_smoothing is a share", given=str(label_smoothing), expected="a number in [0, 1)")
    if smoothing != "all" and (smoothing != "others" or soft):
        raise InputError(
            "this smoothing is not defined here",
            given=f"smoothing={smoothing!r} for {'probabilities' if soft else 'labels'}",
            expected='"all", or "others" with labels',
        )
    if class_weights is not None and class_weights.shape != (classes,):
        raise InputError(
            "class_weights has one number for each class",
            given=f"shape {tuple(class_weights.shape)}",
            expected=f"({classes},)",
        )
    try:
        if mask is None and not soft and label_smoothing == 0.0 and class_weights is None:
            # The common case, fused: half the time of what follows.
            if logits.ndim != 2:
                logits, target = logits.reshape(-1, classes), target.reshape(-1)
            return F.cross_entropy(logits, target, ignore_index=_IGNORE_NOTHING)
        if mask is not None:
            logits = blank(logits, mask)
            target = blank(target, mask) if soft else torch.where(mask, target, 0)
        log_q = logits.log_softmax(-1)
        shares = _shares(target, log_q, label_smoothing, smoothing)
        if class_weights is not None:
            shares = shares * class_weights.to(log_q)
        return average(-(shares * log_q).sum(-1), mask)
    except (IndexError, RuntimeError) as error:
        if not soft:
            refuse_labels(error, target, classes)
        raise


def _check_target(logits: Tensor, target: Tensor, soft: bool) -> None:
    check_logits(logits, "student_logits")
    if not soft:
        check_labels(target, logits)
    elif target.shape != logits.shape:
        raise InputError(
            "logits and target do not belong together",
            given=f"logits {tuple(logits.shape)}, target {tuple(target.shape)} {target.dtype}",
            expected="probabilities of the logits' shape, or labels of shape (…) int64",
        )


def _shares(target: Tensor, like: Tensor, epsilon: float, smoothing: str) -> Tensor:
    """The target's probabilities t, smoothed; for labels written directly, without a one-hot in between."""
    classes = like.shape[-1]
    if target.is_floating_point():
        shares = target.to(like.dtype)
        return shares * (1.0 - epsilon) + epsilon / classes if epsilon else shares
    others = epsilon / (classes if smoothing == "all" else classes - 1)
    at_label = 1.0 - epsilon + (others if smoothing == "all" else 0.0)
    return torch.full_like(like, others, requires_grad=False).scatter(-1, target.unsqueeze(-1), at_label)


def hard_label(student_logits: Tensor, teacher_logits: Logits, *, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy with the class that the teacher would choose; (…, C) and (…, C) → ().

    Equation:
        mean over rows of −log softmax(z_s)_k,  k = argmax z_t

    Use:
        Where only the teacher's decisions are known or trusted, or as half of a sum with labels (DeiT). Not where its
        logits are at hand and good: how sure it was is thrown away.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k of any k and temperature; no gradient reaches it.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example; a cross-entropy, so it nears 0 only as the student becomes certain. No T².

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
    elif isinstance(teacher_logits, Sampled):
        raise InputError(
            "hard_label needs the teacher's own choice, which drawn classes do not tell",
            given=f"{teacher_logits.indices.shape[-1]} drawn classes",
            expected="all logits, or the k largest",
        )
    else:
        check_logits(teacher_logits, "teacher_logits")
        chosen, classes = teacher_logits.detach().argmax(-1), teacher_logits.shape[-1]
    if (*chosen.shape, classes) != tuple(student_logits.shape):
        raise InputError(
            "student and teacher logits do not belong together",
            given=f"student {tuple(student_logits.shape)}, teacher {(*chosen.shape, classes)}",
            expected="the same shape (…, C)",
        )
    return cross_entropy(student_logits, chosen, mask=mask)


def logit_mse(student_logits: Tensor, teacher_logits: Logits, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of logits; (…, C) and (…, C) → ().

    Equation:
        mean over rows of (1 / C) Σ_c (z_s,c − z_t,c)²

    Use:
        A strong and simple match when it is the only soft term. Not where only the order and the gaps of the logits
        matter: unlike a divergence it also pins each row's mean. The paper sums over classes; its code averages, and
        so does this.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () squared logits per class, not nats. 0 where both agree. No temperature and no T².

    Raises:
        InputError: shapes that do not belong together, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> logit_mse(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(1.5225)

    Reference:
        Kim, Oh, Kim, Cho, Yun 2021, arXiv 2105.08919, the loss L_MSE; before them Ba, Caruana 2014, arXiv 1312.6184.
    """
    student, teacher = pair(student_logits, dense(teacher_logits, "logit_mse", mask), mask)
    if mask is None:
        return F.mse_loss(student, teacher)
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
    """Decoupled distillation (DKD): the label's share and the others' ranking apart; (…, C), (…, C) and (…) → ().

    Equation:
        T² · mean over rows of α KL(b_t ‖ b_s) + β KL(p̂ ‖ q̂), with b = (p_y, 1 − p_y), and p̂, q̂ the distributions over
        the other classes alone. With α = 1 and β = 1 − p_y it is `soft_target`.

    Use:
        Where classes resemble each other and the teacher is so sure that its ranking of the others would drown. Not
        for mixed examples, which have no one label. β depends on the pair (2 to 8 in the paper for 100 classes); warm
        the weight up over the first epochs.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        alpha: weight of the label's part, ≥ 0.
        beta: weight of the others' part, ≥ 0.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree.

    Raises:
        InputError: shapes that do not belong together, an option out of range, a label that is not a class, or a top-k
            that left classes out.

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
    student, teacher = pair(student_logits, dense(teacher_logits, "decoupled", mask), mask)
    check_labels(labels, student)
    if mask is not None:
        check_mask(mask, labels.shape)
        labels = torch.where(mask, labels, 0)
    at = labels.unsqueeze(-1)
    try:
        (b_s, rest_s), (b_t, rest_t) = (_apart(z / temperature, at) for z in (student, teacher))
    except (IndexError, RuntimeError) as error:
        refuse_labels(error, labels, student.shape[-1])
        raise
    target_part = (b_t.exp() * (b_t - b_s)).sum(-1)
    # The label's own place holds −inf in both: 0 · (−inf + inf) is set to the 0 that it means.
    others_part = (rest_t.exp() * (rest_t - rest_s).scatter(-1, at, 0.0)).sum(-1)
    return average(alpha * target_part + beta * others_part, mask) * temperature**2


def _apart(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 − p_y), and the log-probabilities among the other classes with −inf at the label.

    log(1 − p_y) is a logsumexp: from the sum of probabilities it would be −inf for a sure teacher.
    """
    log_p = logits.log_softmax(-1)
    log_others = log_p.scatter(-1, at, -math.inf).logsumexp(-1, keepdim=True)
    among_others = logits.scatter(-1, at, -math.inf).log_softmax(-1)
    return torch.cat([log_p.gather(-1, at), log_others], -1), among_others
