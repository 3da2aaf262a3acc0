"""What is learned without any label: how alike examples are to many others, and what an average of the student says.

Anchors are embeddings of examples seen lately, which a queue keeps: a queue is state, and these are functions.

Shapes:  B batch · D features · K anchors · C classes, or outputs that stand for none · "…" any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import average, dense, pair, positive
from tutelage.losses.vectors import blanked, lone, matched, product, unit
from tutelage.types import Logits

__all__ = ["compress_one_queue", "compress_two_queues", "seed_similarity", "self_consistent"]


def seed_similarity(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    anchors: Tensor,
    *,
    tau: float = 0.2,
    teacher_tau: float = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-supervised distillation (SEED): as alike to others as the teacher finds; (B, D), (B, D), (K, D) → ().

    Equation:
        mean over i of −Σ_k p_ik log q_ik,  p_i = softmax(t_i · a / τ_t), q_i = softmax(s_i · a / τ) over the anchors a,
        all of length 1

    Use:
        To hand over an embedding where there are no labels, nor classes: alone, or beside labels where these are few.
        The anchors are the teacher's embeddings of examples seen lately, this batch among them. Not for layers that put
        out maps or tokens: listen where they are pooled. The authors have 65,536 anchors, and two layers behind the
        student (`connector: mlp`).

    Args:
        matched_feature: (B, D), behind a connector to the teacher's width.
        teacher_feature: (B, D); no gradient reaches it.
        anchors: (K, D) of the teacher, NaN in rows that are not filled yet; no gradient reaches them.
        tau: τ > 0, the temperature of the student's similarities.
        teacher_tau: τ_t > 0, of the teacher's; a lower one looks at the nearest anchors only.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example; a cross-entropy, so its least value is the entropy of p, which only equal directions at
        equal temperatures are sure to reach.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> seed_similarity(student, teacher, teacher, teacher_tau=0.1)
        tensor(1.2787)

    Reference:
        Fang, Wang, Wang, Zhang, Yang, Liu 2021, arXiv 2101.04731, equations 3 to 6.
    """
    positive("tau", tau)
    positive("teacher_tau", teacher_tau)
    student, teacher = matched(matched_feature, teacher_feature, mask, (2,))
    log_p = _log_alike(teacher, anchors, teacher_tau, "anchors")
    log_q = _log_alike(student, anchors, tau, "anchors")
    return average(-(log_p.exp() * log_q).sum(-1), mask)


def compress_one_queue(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    anchors: Tensor,
    *,
    tau: float = 0.04,
    mask: Tensor | None = None,
) -> Tensor:
    """Compression of embeddings (CompRess, 1q): neighbours as the teacher has them; (B, D), (B, D), (K, D) → ().

    Equation:
        mean over i of KL(p_i ‖ q_i),  p_i = softmax(t_i · a / τ), q_i = softmax(s_i · a / τ) over the anchors a, all of
        length 1

    Use:
        As `seed_similarity`, with one temperature for both, so that it is 0 at a match. Not where the student's width
        should be free of the teacher's: `compress_two_queues` needs no connector. The authors have 128,000 anchors.

    Args:
        matched_feature: (B, D), behind a connector to the teacher's width.
        teacher_feature: (B, D); no gradient reaches it.
        anchors: (K, D) of the teacher, NaN in rows that are not filled yet; no gradient reaches them.
        tau: τ > 0, the temperature of similarities.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example. 0 where directions are equal.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> compress_one_queue(student, teacher, teacher, tau=0.5)
        tensor(0.1786)

    Reference:
        Koohpayegani, Tejankar, Pirsiavash 2020, arXiv 2010.14713, section 3.
    """
    positive("tau", tau)
    student, teacher = matched(matched_feature, teacher_feature, mask, (2,))
    log_p = _log_alike(teacher, anchors, tau, "anchors")
    return _divergence(log_p, _log_alike(student, anchors, tau, "anchors"), mask)


def compress_two_queues(
    student_feature: Tensor,
    teacher_feature: Tensor,
    twin_anchors: Sequence[Tensor],
    *,
    tau: float = 0.04,
    mask: Tensor | None = None,
) -> Tensor:
    """Compression of embeddings (CompRess, 2q): each among its own anchors; (B, D_s), (B, D_t), two (K, D) → ().

    Equation:
        mean over i of KL(p_i ‖ q_i),  p_i = softmax(t_i · a / τ) over the teacher's anchors a,
        q_i = softmax(s_i · b / τ) over the student's anchors b of the same examples, all of length 1

    Use:
        As `compress_one_queue`, for a student of any width: nothing is learned along, and only who is whose neighbour
        is handed over. The student's anchors are as old as the queue is long, while the teacher's never age. Not with a
        queue that a large learning rate outruns.

    Args:
        student_feature: (B, D_s).
        teacher_feature: (B, D_t); no gradient reaches it.
        twin_anchors: (K, D_t) of the teacher, then (K, D_s) of the student for the same examples, NaN in rows that are
            not filled yet; no gradient reaches them.
        tau: τ > 0, the temperature of similarities.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example. 0 where both find all anchors equally alike.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> compress_two_queues(student, teacher, [teacher, student], tau=0.5)
        tensor(0.2039)

    Reference:
        Koohpayegani, Tejankar, Pirsiavash 2020, arXiv 2010.14713, section 3.
    """
    positive("tau", tau)
    if not isinstance(twin_anchors, Sequence) or len(twin_anchors) != 2:
        given = f"{len(twin_anchors)} tensors" if isinstance(twin_anchors, Sequence) else type(twin_anchors).__name__
        raise InputError("twin_anchors are two", given=given, expected="a list: of the teacher, and of the student")
    student = lone(student_feature, "student_feature", (2,))
    teacher = lone(teacher_feature, "teacher_feature", (2,)).detach().to(student.dtype)
    theirs, ours = twin_anchors
    if len(student) != len(teacher) or len(theirs) != len(ours):
        raise InputError(
            "student and teacher were not asked about the same examples",
            given=f"student {tuple(student.shape)}, anchors {tuple(ours.shape)}; "
            f"teacher {tuple(teacher.shape)}, anchors {tuple(theirs.shape)}",
            expected="as many rows of one as of the other",
        )
    if mask is not None:
        student, teacher = blanked(student, mask), blanked(teacher, mask)
    log_p = _log_alike(teacher, theirs, tau, "twin_anchors[0]")
    return _divergence(log_p, _log_alike(student, ours, tau, "twin_anchors[1]"), mask)


def self_consistent(
    student_logits: Tensor,
    teacher_logits: Logits,
    centre: Tensor,
    *,
    tau: float = 0.1,
    teacher_tau: float = 0.04,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-distillation without labels (DINO): its own average, centred and sharpened; (…, C), (…, C), (C) → ().

    Equation:
        mean over rows of −Σ_c p_c log q_c,  p = softmax((z_t − c) / τ_t), q = softmax(z_s / τ), c the centre

    Use:
        With `source: ema`, so that the teacher is the student's own moving average, beside labels where these are few:
        it needs none. The centre keeps one output from winning everywhere, the lower temperature keeps all from being
        alike. Not as the authors' way from nothing to an embedding: they compare crops of a picture, two large and
        several small ones, and leave a crop with itself out. Here both see the same view, so what there is to learn
        comes from dropout, from the average, and from sharpening.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), all of them; no gradient reaches them.
        centre: (C,), a running mean of the teacher's logits; no gradient reaches it.
        tau: τ > 0, the student's temperature.
        teacher_tau: τ_t > 0, the teacher's, lower than the student's to sharpen.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example; a cross-entropy, log C where all outputs are alike.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or only a part of the teacher's logits.

    Example:
        >>> import torch
        >>> teacher, student = torch.tensor([[0.2, 0.1]]), torch.tensor([[0.1, 0.2]])
        >>> self_consistent(student, teacher, torch.zeros(2))
        tensor(1.2374)

    Reference:
        Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021, arXiv 2104.14294, equations 1, 2 and 4.
    """
    positive("tau", tau)
    positive("teacher_tau", teacher_tau)
    student, teacher = pair(student_logits, dense(teacher_logits, "self_consistent", mask), mask)
    if not isinstance(centre, Tensor) or not centre.is_floating_point() or centre.shape != student.shape[-1:]:
        given = f"{tuple(centre.shape)} {centre.dtype}" if isinstance(centre, Tensor) else type(centre).__name__
        raise InputError("the centre does not fit the logits", given=given, expected=f"({student.shape[-1]},) floats")
    p = ((teacher - centre.detach().to(teacher.dtype)) / teacher_tau).softmax(-1)
    return average(-(p * (student / tau).log_softmax(-1)).sum(-1), mask)


def _log_alike(rows: Tensor, anchors: Tensor, tau: float, name: str) -> Tensor:
    """Log-probabilities over the anchors, (B, K); almost no mass, and no gradient, on those that are not filled yet."""
    others = lone(anchors, name, (2,)).detach().to(rows.dtype)
    if others.shape[-1] != rows.shape[-1]:
        raise InputError(
            f"{name} are no embeddings like the batch's",
            given=f"{tuple(anchors.shape)} beside {tuple(rows.shape)}",
            expected=f"(K, {rows.shape[-1]})",
        )
    filled = ~others.isnan().any(-1)
    scores = product(unit(rows), unit(torch.where(filled.unsqueeze(-1), others, 0.0)).mT) / tau
    # Not −∞: nothing times that would be no number.
    return torch.where(filled, scores, torch.finfo(scores.dtype).min).log_softmax(-1)


def _divergence(log_p: Tensor, log_q: Tensor, mask: Tensor | None) -> Tensor:
    return average((log_p.exp() * (log_p - log_q)).sum(-1), mask)
