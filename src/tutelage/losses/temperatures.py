"""Soft targets whose temperature is not one number for both: the teacher's alone, or several at once.

Dividing logits by T is taking probabilities to the power 1 / T and making them add up to 1 again. So a temperature of
the teacher's alone is a transformed teacher, which a student at temperature 1 can match as it is; and nothing is left
for T² to make up for.

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
p^T = softmax(z_t / T) is the transformed teacher, q = softmax(z_s) the student at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import divergence, soft_target
from tutelage.losses.normalised import check_weight
from tutelage.losses.targets import as_float, average, check_logits, dense, log_probabilities, pair, positive
from tutelage.losses.vectors import product
from tutelage.types import Logits

__all__ = ["multi_level", "transformed_teacher", "weighted_transformed_teacher"]


def transformed_teacher(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float = 10.0, mask: Tensor | None = None
) -> Tensor:
    """Transformed teacher matching (TTM): the teacher is softened, the student is not; (…, C) and (…, C) → ().

    Equation:
        mean over rows of KL(softmax(z_t / T) ‖ softmax(z_s)). With H the entropy and H_a that of Rényi of order a, a
        row is T · KL(softmax(z_t / T) ‖ softmax(z_s / T)) − (T − 1) · (H_1/T(softmax(z_s)) − H(softmax(z_t / T))):
        distillation, and a reward for staying uncertain

    Use:
        Where a student becomes too sure of itself. Not with weights of `soft_target`: there is no T², the best student
        is not the teacher but the softened one, and its answers are as soft. The authors' example has T = 10 with a
        weight of 45, beside `cross_entropy` of weight 1.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C) or top-k; no gradient reaches it.
        temperature: T > 0, no unit, of the teacher only; 1 / T is the exponent γ of the paper.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. 0 where z_s is z_t / T up to a shift. No T².

    Raises:
        InputError: shapes that do not belong together, or a temperature that is not above 0 or not that of the top-k.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> transformed_teacher(student, teacher, temperature=2.0)
        tensor(0.3618)

    Reference:
        Zheng, Yang 2024, arXiv 2402.11148, the objective TTM.
    """
    positive("temperature", temperature)
    check_logits(student_logits, "student_logits")
    # Times T here and divided by T there: the student stays at temperature 1, and top-k is read as everywhere.
    scaled = as_float(student_logits) * temperature
    log_q, log_p = log_probabilities(scaled, teacher_logits, temperature=temperature, mask=mask)
    return average(divergence(log_p, log_q), mask)


def weighted_transformed_teacher(
    student_logits: Tensor, teacher_logits: Logits, *, temperature: float = 10.0, mask: Tensor | None = None
) -> Tensor:
    """Weighted transformed teacher matching (WTTM): flat answers count more; (…, C) and (…, C) → ().

    Equation:
        mean over rows of U · KL(softmax(z_t / T) ‖ softmax(z_s)),  U = Σ_c p_c^(1/T) with p = softmax(z_t)

    Use:
        As `transformed_teacher`, where examples that the teacher finds hard to tell matter most. Not with its weights:
        U is 1 for a certain teacher and up to C^(1 − 1/T) for one that knows nothing, so 63 for T = 10 and 100
        classes. The authors' example has T = 5 with a weight of 4, beside a contrastive loss.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        temperature: T > 0, no unit, of the teacher only; 1 / T is the exponent γ of the paper.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times U. 0 where z_s is z_t / T up to a shift. No T². The weights are not made to have the
        mean 1 over the batch, so an example's gradient does not depend on its neighbours.

    Raises:
        InputError: shapes that do not belong together, a temperature that is not above 0, or a top-k that left classes
            out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> weighted_transformed_teacher(student, teacher, temperature=2.0)
        tensor(0.5745)

    Reference:
        Zheng, Yang 2024, arXiv 2402.11148, the objective WTTM.
    """
    positive("temperature", temperature)
    whole = dense(teacher_logits, "weighted_transformed_teacher", mask)
    student, teacher = pair(student_logits, whole, mask)
    weight = (teacher.log_softmax(-1) / temperature).logsumexp(-1).exp()
    values = divergence((teacher / temperature).log_softmax(-1), student.log_softmax(-1))
    return average(weight * values, mask)


def multi_level(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: float = 1.0,
    batch: float = 1.0,
    classes: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Multi-level logit distillation (MLLD): per example, among examples, among classes; (…, C) and (…, C) → ().

    Equation:
        Σ over T of  a · T² · mean over rows of KL(p ‖ q)  +  b / B · ‖Q Qᵀ − P Pᵀ‖²  +  c / C · ‖Qᵀ Q − Pᵀ P‖², where
        the rows of P and Q are p = softmax(z_t / T) and q = softmax(z_s / T), and ‖·‖² sums the squares of all entries

    Use:
        With large batches, where examples tell something about each other. Not in chunks, nor with very many classes:
        it holds a B × B and a C × C table for each temperature. Not for comparing batch sizes either: twice the rows
        double the second part and quadruple the third; with few classes in large batches the third drowns the others,
        so start with `classes: 0`. The authors show a weak and a strong view of each example, and give each part the
        weight 0.9.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        temperatures: each T > 0, no unit; their losses are added up, so fewer of them also weigh less.
        instance: a ≥ 0, the weight of what each example says.
        batch: b ≥ 0, the weight of how alike examples are; 0 spares its table.
        classes: c ≥ 0, the weight of how alike classes are; 0 spares its table.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example for the first part, without a unit for the others, which have no factor for the temperature.
        0 where both agree.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 0.5, 0.0], [0.5, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
        >>> teacher = torch.tensor([[3.0, 1.0, 0.2, -1.0], [0.0, 2.0, 1.0, 0.0], [-1.0, 0.0, 1.0, 2.0]])
        >>> multi_level(student, teacher, temperatures=[1.0])
        tensor(0.5934)

    Reference:
        Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR 2023.
    """
    if not isinstance(temperatures, Sequence) or not temperatures:
        raise InputError("temperatures is a list", given=f"temperatures={temperatures}", expected="one number or more")
    for temperature in temperatures:
        positive("each of temperatures", temperature)
    for name, weight in (("instance", instance), ("batch", batch), ("classes", classes)):
        check_weight(name, weight)
    student, teacher = pair(student_logits, dense(teacher_logits, "multi_level", mask), mask)
    width = student.shape[-1]
    rows = student.numel() // width if mask is None else mask.sum().clamp(min=1)
    total = torch.zeros((), dtype=student.dtype, device=student.device)
    for temperature in temperatures:
        total = total + instance * soft_target(student, teacher, temperature=temperature, mask=mask)
        # A row that does not count is flat on both sides, and 1 / C like every other: it falls out of the differences.
        q, p = ((z / temperature).softmax(-1).reshape(-1, width) for z in (student, teacher))
        if batch:
            total = total + batch * _apart(q, p) / rows
        if classes:
            total = total + classes * _apart(q.mT, p.mT) / width
    return total


def _apart(q: Tensor, p: Tensor) -> Tensor:
    """‖q qᵀ − p pᵀ‖², all entries."""
    return (product(q, q.mT) - product(p, p.mT)).square().sum()
