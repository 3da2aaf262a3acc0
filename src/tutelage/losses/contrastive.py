"""The same example picked out among others: each of the student's embeddings has to find the teacher's.

Two losses take the other examples of the batch for what is to be told apart, or negatives that the caller keeps; one
reads similarities with what a memory keeps: a memory is state, and these are functions.

Shapes:  B batch · D features of an example, all its dimensions in one row · N negatives.
s_i is the student's direction of example i, t_i the teacher's, both of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import as_float, average, positive
from tutelage.losses.vectors import blanked, lone, matched, product, unit

__all__ = ["contrastive", "contrastive_memory", "info_nce"]


def contrastive(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    *,
    tau: float = 0.07,
    level: float | None = None,
    negatives: Tensor | None = None,
    student_negatives: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Contrastive representation distillation (CRD), by noise-contrastive estimation; (B, …) and (B, …) → ().

    Equation:
        h(u) = w / (w + N), w = e^(u / τ) / Z; mean over i of −log h(s_i · t_i) − Σ over N negatives n of
        log(1 − h(s_i · n)), and the same with the roles of student and teacher exchanged

    Use:
        To hand over a structured embedding, with thousands of negatives from a memory; with those of a small batch
        `info_nce` is easier to tune. Not where many examples are of one class: they are pushed apart like all others,
        unless the memory's negatives are drawn from other classes. The usual weight is 0.8.

    Args:
        matched_feature: (B, …), behind a linear connector to the embedding's width.
        teacher_feature: of the same shape; no gradient reaches it. The authors train a linear layer here too: without
            one, this is the teacher's own feature, or a fixed projection of it.
        tau: τ > 0, the temperature of similarities.
        level: Z > 0, the mean of e^(u / τ), a constant that the authors set from their first batch; None takes that of
            this batch's scores, through which no gradient flows.
        negatives: of the teacher's embeddings, (N, D) for all or (B, N, D) for each; None takes the rest of the batch.
        student_negatives: of the student's, for the other direction; None leaves that out where `negatives` are given.
            No gradient reaches either.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example. Not 0 where both agree: where every score is at the level, a direction has log(1 + N) + N
        log(1 + 1 / N). A batch of one without negatives has nothing to tell apart: 0.

    Raises:
        InputError: shapes that differ, an option out of range, negatives of another width, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> contrastive(student, teacher, tau=0.5)
        tensor(3.5189)

    Reference:
        Tian, Krishnan, Isola 2019, arXiv 1910.10699, the objective with the critic h.
    """
    positive("tau", tau)
    if level is not None:
        positive("level", level)
    student, teacher = _directions(matched_feature, teacher_feature, mask)
    if negatives is None and student_negatives is not None:
        raise InputError(
            "negatives of one side only", given="student_negatives", expected="negatives of the teacher, or of both"
        )
    if negatives is None:
        scores = product(student, teacher.mT) / tau
        return _told_apart(scores, level, mask) + _told_apart(scores.mT, level, mask)
    agreed = (student * teacher).sum(-1, keepdim=True) / tau
    total = _found(agreed, _scores(student, negatives, tau, "negatives"), level, mask)
    if student_negatives is not None:
        total = total + _found(agreed, _scores(teacher, student_negatives, tau, "student_negatives"), level, mask)
    return total


def contrastive_memory(contrast: Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Contrastive representation distillation (CRD) as its authors train it, with a memory; similarities (B, …) → ().

    Equation:
        h(u) = w / (w + N), w = e^u / Z, u a cosine divided by τ; mean over i of −log h(u_i) − Σ over N negatives of
        log(1 − h(u_in)), with Z the mean of e^u in the first batch, and the same with the roles of student and teacher
        exchanged

    Use:
        To hand over a structured embedding, beside labels or soft targets. On both sides a linear layer learns along,
        and negatives are drawn among all training examples of other classes, from embeddings that a memory keeps: 8
        bytes for each example and number of an embedding. Not for training parts too large for that; there `info_nce`
        or `contrastive` with a large batch. The authors' weight is 0.8, their number of negatives 16,384 and τ = 0.07.

    Args:
        contrast: similarities divided by τ: u_i of each pair (B,), of the student's embeddings with the teacher's
            negatives (B, N), of the teacher's with the student's (B, N), and log Z of both directions (2,), a constant.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example, the sum of two directions. Not 0 where both agree: where every similarity is at the level,
        a direction has log(1 + N) + N log(1 + 1 / N), 10.7041 for N = 16,384.

    Raises:
        InputError: it is no such list, or a mask that does not fit.

    Example:
        >>> import torch
        >>> level, others = torch.zeros(2), torch.tensor([[0.5, -1.0, 0.0]])
        >>> contrastive_memory([torch.tensor([2.0]), others, others, level])
        tensor(2.3642)

    Reference:
        Tian, Krishnan, Isola 2019, arXiv 1910.10699, the objective with the critic h.
    """
    shapes = [tuple(one.shape) for one in contrast] if isinstance(contrast, Sequence) else type(contrast).__name__
    rows = shapes[0] if isinstance(shapes, list) and shapes else ()
    if (
        not isinstance(shapes, list) or len(shapes) != 4 or len(rows) != 1 or not rows[0] or shapes[3] != (2,)
        or shapes[1] != shapes[2] or len(shapes[1]) != 2 or shapes[1][0] != rows[0] or not shapes[1][1]
        or not all(one.is_floating_point() for one in contrast)
    ):  # fmt: skip
        raise InputError(
            "these are no similarities with a memory", given=str(shapes),
            expected="floating-point numbers of shape (B,), (B, N), (B, N) and (2,)",
        )  # fmt: skip
    agreed, of_student, of_teacher, levels = (as_float(one) for one in contrast)
    total = agreed.new_zeros(())
    for scores, level in zip((of_student, of_teacher), levels.detach(), strict=True):
        every = torch.cat([agreed.unsqueeze(-1), scores], -1)
        if mask is not None:
            every = blanked(every, mask)
        total = total + _estimated(every, level, mask)
    return total


def info_nce(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    *,
    tau: float = 0.07,
    negatives: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """InfoNCE: which of the teacher's embeddings is this example's; (B, …) and (B, …) → ().

    Equation:
        mean over i of −log( e^(s_i · t_i / τ) / Σ_j e^(s_i · t_j / τ) ), j over the batch, or over i and the negatives

    Use:
        For embeddings, with a batch of some hundred or a memory. Not as a measure of agreement: it is not 0 at a match,
        and says only how well examples are told apart.

    Args:
        matched_feature: (B, …), behind a linear connector to the embedding's width.
        teacher_feature: of the same shape; no gradient reaches it.
        tau: τ > 0, the temperature of similarities; lower looks at the hardest negatives only.
        negatives: of the teacher's embeddings, (N, D) for all or (B, N, D) for each; None takes the rest of the batch.
            No gradient reaches them.
        mask: (B,) bool, True where an example counts; the others may hold anything, and are nobody's negatives.

    Returns:
        () nats per example; log(1 + N) where all look the same. A batch of one without negatives: 0.

    Raises:
        InputError: shapes that differ, an option out of range, negatives of another width, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> info_nce(student, teacher, tau=0.5)
        tensor(0.9906)

    Reference:
        van den Oord, Li, Vinyals 2018, arXiv 1807.03748, equation 4.
    """
    positive("tau", tau)
    student, teacher = _directions(matched_feature, teacher_feature, mask)
    if negatives is not None:
        agreed = (student * teacher).sum(-1, keepdim=True) / tau
        scores = torch.cat([agreed, _scores(student, negatives, tau, "negatives")], -1)
        return average(-scores.log_softmax(-1)[:, 0], mask)
    scores = product(student, teacher.mT) / tau
    if mask is not None:
        # Not −∞: where nothing counts, that would be no number.
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return average(-scores.log_softmax(-1).diagonal(), mask)


def _directions(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    ours, theirs = (one.flatten(1) for one in matched(student, teacher, None))
    if mask is not None:
        ours, theirs = matched(ours, theirs, mask)
    return unit(ours), unit(theirs)


def _scores(rows: Tensor, negatives: Tensor, tau: float, name: str) -> Tensor:
    """Similarities of each row with its negatives, (B, N)."""
    others = unit(lone(negatives, name, (2, 3)).detach().to(rows.dtype))
    if others.shape[-1] != rows.shape[-1] or (others.ndim == 3 and len(others) != len(rows)):
        raise InputError(
            f"{name} are no embeddings like the batch's",
            given=f"{name} {tuple(negatives.shape)} beside {tuple(rows.shape)}",
            expected=f"(N, {rows.shape[-1]}), or ({len(rows)}, N, {rows.shape[-1]})",
        )
    if others.ndim == 2:
        return product(rows, others.mT) / tau
    return product(others, rows.unsqueeze(-1)).squeeze(-1) / tau


def _told_apart(scores: Tensor, level: float | None, mask: Tensor | None) -> Tensor:
    """One direction within the batch, from all scores (B, B): what stands on the diagonal belongs together."""
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    among = torch.ones_like(own) if mask is None else mask.unsqueeze(-1) & mask
    number = (among & ~own).sum() // among.diagonal().sum().clamp(min=1)
    odds = scores - _log_level(scores, among, level) - number.clamp(min=1).to(scores.dtype).log()
    values = torch.where(own, -F.logsigmoid(odds), -F.logsigmoid(-odds))
    return average(torch.where(among & (number > 0), values, 0.0).sum(-1), mask)


def _found(agreed: Tensor, scores: Tensor, level: float | None, mask: Tensor | None) -> Tensor:
    """One direction with negatives from elsewhere: the score of each pair (B, 1), of its negatives (B, N)."""
    every = torch.cat([agreed, scores], -1)
    among = torch.ones_like(every, dtype=torch.bool) if mask is None else mask.unsqueeze(-1).expand_as(every)
    return _estimated(every, _log_level(every, among, level), mask)


def _estimated(every: Tensor, log_level: Tensor, mask: Tensor | None) -> Tensor:
    """One direction by noise-contrastive estimation: the first of each row (B, 1 + N) belongs to it, the others not."""
    odds = every - log_level - math.log(every.shape[-1] - 1)
    return average(-F.logsigmoid(odds[:, 0]) - F.logsigmoid(-odds[:, 1:]).sum(-1), mask)


def _log_level(scores: Tensor, among: Tensor, level: float | None) -> Tensor:
    """log Z."""
    if level is not None:
        return scores.new_full((), math.log(level))
    with torch.no_grad():
        counted = torch.where(among, scores, torch.finfo(scores.dtype).min)
        return counted.flatten().logsumexp(0) - among.sum().clamp(min=1).to(scores.dtype).log()
