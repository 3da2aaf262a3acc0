"""Outputs that are not one distribution over classes: several labels at once, numbers, scores of a list.

Where labels do not exclude each other, each has a probability of its own, σ(z), and a softmax over them says something
that nobody claimed. Numbers have no temperature. Scores have gaps; of their order alone see `losses.ranking`.

Sums run over labels, as the divergence of independent answers is the sum of theirs, in nats per example; PyTorch's own
mean over labels is 1 / C of that. Squares are averaged over the numbers of an example.

Shapes:  B batch · C labels, numbers or items, 1 is enough · "…" any leading dimensions, each row one example.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.normalised import at_label, check_weight, looked_up
from tutelage.losses.targets import as_float, average, blank, dense, pair, positive
from tutelage.types import Logits

__all__ = [
    "binary_cross_entropy",
    "binary_soft_target",
    "bounded_regression",
    "margin_mse",
    "regression_mse",
]


def binary_soft_target(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Soft targets for several labels at once: a divergence for each label; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of Σ_c p_c log(p_c / q_c) + (1 − p_c) log((1 − p_c) / (1 − q_c)),  p_c = σ(z_t,c / T) and
        q_c = σ(z_s,c / T)

    Use:
        Where an example may have many labels or none, and for one logit that says yes or no. Not where exactly one
        class is right: `soft_target` knows that the others are then wrong.

    Args:
        student_logits: (…, C), C ≥ 1.
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, summed over labels, times T². 0 where both agree.

    Raises:
        InputError: shapes that do not belong together, a temperature that is not above 0, or a top-k that left classes
            out.

    Example:
        >>> import torch
        >>> binary_soft_target(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.3744)

    Reference:
        Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2, with two outcomes for each label.
    """
    positive("temperature", temperature)
    whole = dense(teacher_logits, "binary_soft_target", mask)
    student, teacher = _beside(student_logits, whole, "teacher_logits", mask)
    b, a = student / temperature, teacher / temperature
    yes, no = (a.sigmoid() * (F.logsigmoid(a) - F.logsigmoid(b)) for a, b in ((a, b), (-a, -b)))
    return average((yes + no).sum(-1), mask) * temperature**2


def binary_cross_entropy(
    student_logits: Tensor, target: Tensor, *, positive_weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy with several labels at once; (…, C) and (…, C) → ().

    Equation:
        mean over rows of −Σ_c w_c t_c log σ(z_s,c) + (1 − t_c) log(1 − σ(z_s,c))

    Use:
        What the student learns where an example may have many labels or none. Not where exactly one class is right, nor
        with weights tuned for PyTorch's own, which averages over labels: there they are C times larger.

    Args:
        student_logits: (…, C), C ≥ 1.
        target: (…, C), 0 or 1 of any type, or probabilities of each label; they need not add up to 1.
        positive_weights: (C,) ≥ 0, w, how much a label counts where it is there; for rare ones above 1.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, summed over labels. Its least value is the sum of the entropies of t: 0 for hard labels.
        No T².

    Raises:
        InputError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> binary_cross_entropy(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[1, 0, 0, 1]]))
        tensor(4.1074)

    Reference:
        Good 1952, Rational decisions, Journal of the Royal Statistical Society B 14: the logarithmic score of each.
    """
    student, shares = _beside(student_logits, target, "target", mask)
    if positive_weights is not None:
        if positive_weights.shape != student.shape[-1:]:
            raise InputError(
                "positive_weights has one number for each label",
                given=f"positive_weights of shape {tuple(positive_weights.shape)}",
                expected=f"({student.shape[-1]},)",
            )
        positive_weights = positive_weights.to(student.dtype)
    values = F.binary_cross_entropy_with_logits(student, shares, pos_weight=positive_weights, reduction="none")
    return average(values.sum(-1), mask)


def regression_mse(student_logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of numbers; (…, C) and (…, C) → ().

    Equation:
        mean over rows of (1 / C) Σ_c (z_s,c − y_c)²

    Use:
        Where the student's outputs are numbers, not logits; the same against a teacher is `logit_mse`. Not where the
        numbers of an example have different units: bring them to one scale first.

    Args:
        student_logits: (…, C), the outputs as they are, C ≥ 1.
        target: (…, C), floating-point. One number for each example is (…, 1): (B,) beside (B, 1) would be a table.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () squared units of the target. 0 where they are equal. No temperature and no T².

    Raises:
        InputError: shapes that do not belong together, or whole numbers, which are labels.

    Example:
        >>> import torch
        >>> regression_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 0.0]]))
        tensor(2.1250)

    Reference:
        Gauss 1809, Theoria motus corporum coelestium, articles 175 to 186: least squares.
    """
    student, numbers = _beside(student_logits, _real(target), "target", mask)
    return average((student - numbers).square().mean(-1), mask)


def bounded_regression(
    student_logits: Tensor, teacher_logits: Logits, target: Tensor, *, margin: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Teacher-bounded regression: the student's error, until it is below the teacher's; (…, C), (…, C), (…, C) → ().

    Equation:
        mean over rows of e_s where e_s + m > e_t, and 0 elsewhere,  e = (1 / C) Σ_c (z_c − y_c)² of student and teacher

    Use:
        Beside `regression_mse`, where the teacher's numbers may point away from the truth: it bounds the student's
        error and is never copied. Not as the only term: it goes silent where the student is better. The paper sums over
        the numbers of an example; here they are averaged, so m is in the units of that mean.

    Args:
        student_logits: (…, C), the outputs as they are, C ≥ 1.
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        target: (…, C), floating-point.
        margin: m ≥ 0, how much better than the teacher is good enough, in squared units of the target.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () squared units of the target, never above `regression_mse`. 0 where the student is better by the margin. It
        jumps there: its gradient is that of the error on one side and 0 on the other. No temperature and no T².

    Raises:
        InputError: shapes that do not belong together, whole numbers as target, a margin out of range, or a top-k that
            left numbers out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]])
        >>> bounded_regression(student, teacher, torch.tensor([[1.5, 0.0], [0.5, 0.5]]))
        tensor(1.0625)

    Reference:
        Chen, Choi, Yu, Han, Chandraker 2017, Learning Efficient Object Detection Models with Knowledge Distillation,
        NeurIPS 2017, the teacher bounded regression loss.
    """
    check_weight("margin", margin)
    whole = dense(teacher_logits, "bounded_regression", mask)
    student, teacher = _beside(student_logits, whole, "teacher_logits", mask)
    _, numbers = _beside(student_logits, _real(target), "target", mask)
    own, bound = ((side - numbers).square().mean(-1) for side in (student, teacher))
    return average(torch.where(own + margin > bound, own, 0.0), mask)


def margin_mse(student_logits: Tensor, teacher_logits: Logits, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Margin-MSE: how far the right item is ahead of each other one; (…, C), (…, C) and (…) → ().

    Equation:
        mean over rows of 1 / (C − 1) · Σ_{c≠y} ((z_t,y − z_t,c) − (z_s,y − z_s,c))²

    Use:
        For scores of a list, one of whose items is the right one, as in retrieval: a query and its documents. Not where
        the scores themselves must be the teacher's, as a number added to all of a row changes nothing.

    Args:
        student_logits: (…, C), the scores of a query's items.
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1, which item is right.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () squared scores. 0 where both agree. No temperature and no T².

    Raises:
        InputError: shapes that do not belong together, a label that is no item, or a top-k that left items out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[4.0, 3.0, 0.5]]), torch.tensor([[5.0, 2.0, 1.0]])
        >>> margin_mse(student, teacher, torch.tensor([0]))
        tensor(2.1250)

    Reference:
        Hofstätter and others 2020, arXiv 2010.02666, the loss Margin-MSE, with all other items of the row as negatives.
    """
    student, teacher = pair(student_logits, dense(teacher_logits, "margin_mse", mask), mask)
    at = at_label(labels, student, mask)
    with looked_up(at, student):
        ahead, expected = (z.gather(-1, at) - z for z in (student, teacher))
    # Of the right item with itself the margin is 0 on both sides.
    return average((expected - ahead).square().sum(-1) / (student.shape[-1] - 1), mask)


def _beside(student_logits: Tensor, other: Tensor, name: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The student's outputs and what they are compared with, in one precision."""
    if not student_logits.is_floating_point() or student_logits.ndim < 1 or student_logits.numel() == 0:
        raise InputError(
            "student_logits cannot be outputs",
            given=f"shape {tuple(student_logits.shape)}, {student_logits.dtype}",
            expected="floating-point numbers of shape (…, C) with at least one row",
        )
    if other.shape != student_logits.shape or (name == "teacher_logits" and not other.is_floating_point()):
        flat = other.shape == student_logits.shape[:-1] and student_logits.shape[-1] == 1
        raise InputError(
            f"student_logits and {name} do not belong together",
            given=f"student_logits {tuple(student_logits.shape)}, {name} {tuple(other.shape)} {other.dtype}",
            expected="the same shape (…, C)",
            fix=f"give {name} its last dimension: {name}.unsqueeze(-1)" if flat else None,
        )
    student = as_float(student_logits)
    values = other.to(student.dtype)
    return (student, values) if mask is None else (blank(student, mask), blank(values, mask))


def _real(target: Tensor) -> Tensor:
    if not target.is_floating_point():
        raise InputError(
            "target is not a number to come close to",
            given=f"target {tuple(target.shape)} {target.dtype}",
            expected="floating-point numbers; whole ones are labels",
            fix="if they are numbers, target.float()",
        )
    return target
