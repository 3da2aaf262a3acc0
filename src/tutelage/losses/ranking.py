"""Orders of items: what a recommender says of a user is which items come first, and in which order.

The classes are the items, an example is a user's history, and the label is the item that came next. The students here
score all items at once, so nothing is drawn by chance that can be counted: where authors draw items by the teacher's
rank, the mean over the draws is taken, which has the same gradient in the mean and no noise.

Only the teacher's first items matter, so a top-k is as good as all logits as long as it holds them.

Shapes:  B batch · C items · K the teacher's first items · "…" any leading dimensions, each row one user.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.normalised import check_weight
from tutelage.losses.targets import as_float, average, blank, check_logits, dense, pair, positive
from tutelage.types import Logits, TopK

__all__ = ["collaborative_ranking", "position_weighted_ranking", "relaxed_ranking"]


def position_weighted_ranking(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    top: int | None = None,
    decay: float = 10.0,
    discrepancy: float | None = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Ranking distillation (RD): the teacher's best items count as liked, the first most; (…, C) and (…, C) → ().

    Equation:
        mean over rows of −Σ_{r≤K} w_r log σ(s_r),  s_r the student's score of the item at the teacher's place r;
        w_r = u_r / Σ_i u_i,  u_r = e^{−r / λ} · tanh(max(μ (ρ_r − r), 0)),  ρ_r the place that the student gives it

    Use:
        Beside the labels of a recommender, whose few known likes it completes. Items that the student already has in
        their place weigh nothing. The authors take the places alone (`discrepancy: null`) for the first epochs: two
        terms whose weights are scheduled against each other. Not alone: it only lifts scores, nothing lowers any.

    Args:
        student_logits: (…, C), the scores of all items.
        teacher_logits: (…, C), or top-k with k ≥ K; no gradient reaches it. Of equal scores the earlier item is ahead.
        top: K in 1 … C, how many items teach; None is all that the teacher tells.
        decay: λ > 0, in places: how slowly the weight fades from one place to the next.
        discrepancy: μ ≥ 0, how fast the weight grows with the places that the student is behind; None leaves it out.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, averaged over its items by their weights. 0 where the student has no item too far behind.
        No temperature, no T². Weights are constants for the gradient.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that holds fewer than K.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0, 0.5]]), torch.tensor([[9.0, 5.0, 1.0, 0.0]])
        >>> position_weighted_ranking(student, teacher, top=3, decay=1.0, discrepancy=None)
        tensor(0.5492)
        >>> position_weighted_ranking(student, teacher, top=3, decay=1.0)
        tensor(0.6931)

    Reference:
        Tang, Wang 2018, KDD, arXiv 1809.07428, section 4: weighting by position, by ranking discrepancy, and hybrid.
    """
    positive("decay", decay)
    if discrepancy is not None:
        check_weight("discrepancy", discrepancy)
    student, _, order, count = _ranked(student_logits, teacher_logits, top, "position_weighted_ranking", mask)
    first = order[..., :count]
    weights = _fading(count, decay, student).expand(first.shape)
    if discrepancy is not None:
        own = student.detach().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        behind = own.gather(-1, first) - torch.arange(count, device=own.device)
        weights = weights * torch.tanh(discrepancy * behind.clamp(min=0).to(weights.dtype))
        whole = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(whole > 0, whole, 1.0)
    return average(-(weights * F.logsigmoid(student.gather(-1, first))).sum(-1), mask)


def collaborative_ranking(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    temperature: float = 1.0,
    top: int | None = None,
    decay: float = 10.0,
    shift: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Collaborative distillation (CD): how much each item is liked, by the teacher's ranks; (…, C) and (…, C) → ().

    Equation:
        mean over rows of Σ_{r≤K} w_r (p_r log(p_r / q_r) + (1 − p_r) log((1 − p_r) / (1 − q_r))),  p_r = σ((z_t,r + b)
        / T) and q_r = σ(z_s,r) of the item at the teacher's place r;  w_r = e^{−r / λ} / Σ_{i≤K} e^{−i / λ}

    Use:
        Where most items have no label and "not chosen" is not "not liked": each gets a degree, and more attention the
        higher the teacher ranks it. The authors draw items with a chance that falls with the rank; with all scores at
        hand the mean over draws is taken. Not where a softmax taught the teacher and its scores have no level of their
        own, unless `shift` gives them one: 0 should be where liking begins.

    Args:
        student_logits: (…, C), the scores of all items.
        teacher_logits: (…, C), or top-k with k ≥ K; no gradient reaches it. Of equal scores the earlier item is ahead.
        temperature: T > 0, no unit, of the teacher alone.
        top: K in 1 … C, how many items teach; None is all that the teacher tells.
        decay: λ > 0, in places: how slowly the chance of an item fades from one place to the next.
        shift: b, any number, added to the teacher's scores.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per item, averaged over items by their chances. 0 where the student's scores are (z_t + b) / T. No T².

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that holds fewer than K.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0, 0.5]]), torch.tensor([[3.0, 1.0, 0.5, -1.0]])
        >>> collaborative_ranking(student, teacher, top=2, decay=1.0)
        tensor(0.3672)

    Reference:
        Lee, Choi, Lee, Shim 2019, ICDM, arXiv 1911.05276, the rank-aware sampling and the soft target.
    """
    positive("temperature", temperature)
    positive("decay", decay)
    if not math.isfinite(shift):
        raise InputError("shift must be a finite number", given=f"shift={shift}", expected="any number")
    student, teacher, order, count = _ranked(student_logits, teacher_logits, top, "collaborative_ranking", mask)
    first = order[..., :count]
    a, b = (teacher.gather(-1, first) + shift) / temperature, student.gather(-1, first)
    yes, no = (x.sigmoid() * (F.logsigmoid(x) - F.logsigmoid(y)) for x, y in ((a, b), (-a, -b)))
    return average(((yes + no) * _fading(count, decay, student)).sum(-1), mask)


def relaxed_ranking(
    student_logits: Tensor,
    teacher_logits: Logits,
    *,
    top: int | None = None,
    others: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Relaxed ranking (RRD): the teacher's best items in its order, all others behind; (…, C) and (…, C) → ().

    Equation:
        mean over rows of −Σ_{k≤K} (s_k − log(Σ_{k≤j≤K} e^{s_j} + ρ Σ_{l>K} e^{s_l})),  s the student's scores in the
        order of the teacher's, largest first, and ρ = 1: how likely the student draws the first K of them, one after
        another; ρ = L / (C − K) where the others count as L of them

    Use:
        For recommendation and retrieval, where order counts and the scores do not. Not where the gaps of the scores are
        worth keeping: `margin_mse` keeps them. The authors draw 40 items that interest a user and 40 that do not, anew
        in every epoch: `top` and `others` are these numbers, and the mean over the drawn others is taken, inside the
        logarithm.

    Args:
        student_logits: (…, C), the scores of a query's items.
        teacher_logits: (…, C), or top-k with k ≥ K; no gradient reaches it. Of equal scores the earlier item is ahead.
        top: K in 1 … C, how many stand in order; None is all that the teacher tells. The order of the others does not
            matter.
        others: L ≥ 1, as how many items all those behind the first K count together; None counts each.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, summed over the K places. Nears 0 only as the student's gaps grow. No temperature, no T².

    Raises:
        InputError: shapes that do not belong together, K or L out of range, or a top-k that holds fewer than K.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0, 0.5]]), torch.tensor([[9.0, 5.0, 1.0, 0.0]])
        >>> relaxed_ranking(student, teacher, top=2)
        tensor(1.2263)

    Reference:
        Kang and others 2020 (DE-RRD), arXiv 2012.04357, the relaxed ranking distillation.
    """
    student, _, order, count = _ranked(student_logits, teacher_logits, top, "relaxed_ranking", mask)
    if others is not None and others < 1:
        raise InputError("others counts items", given=f"others={others}", expected="1 or more, or None")
    scores = left = student.gather(-1, order)
    behind = scores.shape[-1] - count
    if others is not None and behind:
        fewer = left.new_full((behind,), math.log(others / behind))
        left = left + torch.cat([left.new_zeros(count), fewer])
    left = left.flip(-1).logcumsumexp(-1).flip(-1)
    return average((left - scores)[..., :count].sum(-1), mask)


def _ranked(
    student_logits: Tensor, teacher_logits: Logits, top: int | None, loss: str, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores of student and teacher (…, C), the items as the teacher ranks them (…, C), and how many of them teach.

    Behind the first ones the order is the teacher's where it told all, and that of the items where it did not.

    Raises:
        InputError: shapes that do not belong together, a top out of range, or drawn classes.
    """
    if isinstance(teacher_logits, TopK) and teacher_logits.values.shape[-1] < teacher_logits.classes:
        told, whole = teacher_logits.values.shape[-1], _spread(student_logits, teacher_logits, mask)
    else:
        whole = dense(teacher_logits, loss, mask)
        told = whole.shape[-1] if whole.ndim else 0
    student, teacher = pair(student_logits, whole, mask)
    if top is not None and not 1 <= top <= told:
        given = f"top={top}" if told == student.shape[-1] else f"top={top} of the {told} that the teacher's top-k holds"
        raise InputError("top counts the places that matter", given=given, expected=f"1 … {told}, or None")
    return student, teacher, teacher.argsort(dim=-1, descending=True, stable=True), told if top is None else top


def _spread(student_logits: Tensor, kept: TopK, mask: Tensor | None) -> Tensor:
    """The kept logits in their places, −∞ elsewhere, (…, C)."""
    check_logits(student_logits, "student_logits")
    k = kept.values.shape[-1]
    belongs = (*kept.values.shape[:-1], kept.classes) == tuple(student_logits.shape)
    if not belongs or kept.indices.shape != kept.values.shape:
        raise InputError(
            "student logits and the teacher's top-k do not belong together",
            given=f"student {tuple(student_logits.shape)}, top-{k} of {kept.classes} {tuple(kept.values.shape)}",
            expected=f"student (…, {kept.classes}), with the same leading dimensions in both",
        )
    values, places = as_float(kept.values.detach()), kept.indices
    if mask is not None:
        values, places = blank(values, mask), torch.where(mask.unsqueeze(-1), places, 0)
    return values.new_full(student_logits.shape, -math.inf).scatter(-1, places, values)


def _fading(count: int, decay: float, like: Tensor) -> Tensor:
    """e^{−r / λ} for the places 1 … K, adding up to 1, (K,)."""
    return (-torch.arange(1, count + 1, device=like.device).to(like.dtype) / decay).softmax(-1)
