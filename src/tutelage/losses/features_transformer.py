"""Layers of transformers, matched: hidden states, attention, and how tokens relate to each other.

What they put out is the same kind of thing in every size of net, so that most need no more than a linear connector.
Padding is left out by a mask over tokens: as a row, and in attention also as something to look at.

Shapes:  B batch · T tokens · D features · h heads.
s is the student's feature, t the teacher's, l a pair of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import as_float, average
from tutelage.losses.vectors import apart, blanked, check_choice, check_rows, layers, lone, matched, per_row, product

__all__ = ["attention_kl", "attention_mse", "cosine_hidden", "hidden_mse", "patient", "relation_kl"]

# Scores at or below this were filled in by a model's own mask: the authors' code compares zeros there, and so do we.
_FILLED = -100.0
# Less attention than this is rounding; its logarithm would be all that the divergence sees.
_NO_ATTENTION = 1e-7


def hidden_mse(
    matched_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """Hidden states of several layers (TinyBERT, MobileBERT): mean squared error; two lists of (B, T, D) → ().

    Equation:
        mean over layers l of mean over tokens and features of (s_l − t_l)²

    Use:
        To hand over a transformer layer by layer, behind linear connectors (TinyBERT), or without any where the widths
        are built to be equal (MobileBERT's feature map transfer). Not on a student whose layers are fewer without
        saying which layer follows which: usual is every k-th of the teacher's, embeddings with embeddings.

    Args:
        matched_features: (B, T, D_l) each, or (B, D_l), in order, behind connectors.
        teacher_features: as many of the same shapes; no gradient reaches them.
        mask: (B,) bool, or (B, T) beside tokens, True where a row counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit. 0 where all agree. Both papers add layers up: multiply the weight by
        their number for that.

    Raises:
        InputError: lists of different lengths, shapes that differ, or a mask that does not fit.

    Example:
        >>> import torch
        >>> hidden_mse([torch.tensor([[[1.0, 2.0]]])], [torch.tensor([[[2.0, 4.0]]])])
        tensor(2.5000)

    Reference:
        Jiao and others 2019 (TinyBERT), arXiv 1909.10351, equations 8 and 9; Sun and others 2020 (MobileBERT), arXiv
        2004.02984, equation 1.
    """
    pairs = (matched(*pair, mask, (2, 3)) for pair in layers(matched_features, teacher_features))
    return torch.stack([per_row((student - teacher).square(), mask) for student, teacher in pairs]).mean()


def cosine_hidden(matched_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Directions of hidden states (DistilBERT): one less their cosine; (…, D) and (…, D) → ().

    Equation:
        mean over rows of 1 − cos(s, t), computed as ½ ‖s / ‖s‖ − t / ‖t‖‖², which rounding cannot make negative

    Use:
        Beside a loss on logits, on the last hidden states. Not where the next layer sees their length. DistilBERT gives
        it the weight 1 beside 5 for soft targets and 2 for its own task.

    Args:
        matched_feature: (B, D) or (B, T, D), behind a connector where widths differ.
        teacher_feature: of the same shape; no gradient reaches it.
        mask: (B,) bool, or (B, T) beside tokens, True where a row counts; the others may hold anything.

    Returns:
        () without a unit, 0 to 2. 0 where directions agree. A row of zeros has none: against another row it counts ½.

    Raises:
        InputError: shapes that differ, or a mask that does not fit.

    Example:
        >>> import torch
        >>> cosine_hidden(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[2.0, 0.0, 1.0]]))
        tensor(0.4037)

    Reference:
        Sanh, Debut, Chaumond, Wolf 2019 (DistilBERT), arXiv 1910.01108, section 3.
    """
    student, teacher = matched(matched_feature, teacher_feature, mask, (2, 3))
    return per_row(0.5 * apart(student, teacher).unsqueeze(-1), mask)


def patient(
    matched_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """Patient distillation (PKD): the first token's direction, layer by layer; two lists of (B, T, D) → ().

    Equation:
        mean over layers l and examples of ‖s_l / ‖s_l‖ − t_l / ‖t_l‖‖², each the hidden state of the first token

    Use:
        For a classifier that reads its first token, from every k-th layer of the teacher (skip) or its last ones. Not
        for nets that average over tokens. The paper's weights are 10 to 1000 on this sum.

    Args:
        matched_features: (B, T, D_l) each, of which the first token is read, or (B, D_l); behind connectors.
        teacher_features: as many of the same shapes; no gradient reaches them.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit, 0 to 4: twice one less the cosine. 0 where directions agree. A row of zeros has none: against
        another row it counts 1. The paper adds layers up; its code divides by D.

    Raises:
        InputError: lists of different lengths, shapes that differ, or a mask that does not fit.

    Example:
        >>> import torch
        >>> patient([torch.tensor([[1.0, 2.0, 2.0]])], [torch.tensor([[2.0, 0.0, 1.0]])])
        tensor(0.8074)

    Reference:
        Sun, Cheng, Gan, Liu 2019, arXiv 1908.09355, the loss L_PT.
    """
    values = []
    for pair in layers(matched_features, teacher_features):
        student, teacher = matched(*pair, None, (2, 3))
        first = [one[:, 0] if one.ndim == 3 else one for one in (student, teacher)]
        if mask is not None:
            first = [blanked(one, mask) for one in first]
        values.append(average(apart(*first), mask))
    return torch.stack(values).mean()


def attention_mse(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """Attention of several layers (TinyBERT): mean squared error of scores; two lists of (B, h, T, T) → ().

    Equation:
        mean over layers l, heads and pairs of tokens of (s_l − t_l)²; scores ≤ −100 count as 0 on either side

    Use:
        For transformers with equal numbers of heads, on scores before the softmax. Not on attention after it: there
        almost all numbers are nearly 0, and `attention_kl` sees more.

    Args:
        student_features: (B, h, T, T) each, queries in rows and keys in columns.
        teacher_features: as many of the same shapes; no gradient reaches them.
        mask: (B, T) bool, True where a token counts, as a query and as a key; the others may hold anything.

    Returns:
        () in the square of the scores' unit. 0 where all agree. The paper adds layers up: multiply the weight by their
        number for that.

    Raises:
        InputError: lists of different lengths, shapes that differ, such as other numbers of heads, or a mask that does
            not fit.

    Example:
        >>> import torch
        >>> attention_mse([torch.tensor([[[[1.0, 0.0], [2.0, -1e9]]]])], [torch.tensor([[[[0.0, 0.0], [4.0, -1e4]]]])])
        tensor(1.2500)

    Reference:
        Jiao and others 2019 (TinyBERT), arXiv 1909.10351, equation 7.
    """
    values = []
    for student, teacher in _attentions(student_features, teacher_features, mask):
        ours, theirs = (torch.where(scores > _FILLED, scores, 0.0) for scores in (student, teacher))
        counted = None if mask is None else mask[:, None, :, None] & mask[:, None, None, :]
        values.append(average((ours - theirs).square(), None if counted is None else counted.expand_as(ours)))
    return torch.stack(values).mean()


def attention_kl(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    given: str = "maps",
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of several layers (MobileBERT, MiniLM): KL(teacher ‖ student); two lists of (B, h, T, T) → ().

    Equation:
        mean over layers l, heads and queries of Σ over keys of t_l (log t_l − log s_l)

    Use:
        For transformers with equal numbers of heads: all layers as in MobileBERT, or the last one alone as in MiniLM.
        Not on attention behind dropout, which is no distribution.

    Args:
        student_features: (B, h, T, T) each, queries in rows and keys in columns.
        teacher_features: as many of the same shapes; no gradient reaches them.
        given: "maps", attention after the softmax, of which less than 1e−7 counts as 1e−7; or "scores" before it.
        mask: (B, T) bool, True where a token counts, as a query and as a key; the others may hold anything. Without
            them a map's rows are brought back to the sum 1.

    Returns:
        () nats per query. 0 where all agree.

    Raises:
        InputError: lists of different lengths, shapes that differ, such as other numbers of heads, an option that is
            none, or a mask that does not fit.

    Example:
        >>> import torch
        >>> attention_kl([torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])], [torch.tensor([[[[0.9, 0.1], [0.5, 0.5]]]])])
        tensor(0.1840)

    Reference:
        Sun and others 2020 (MobileBERT), arXiv 2004.02984, equation 2; Wang and others 2020 (MiniLM), arXiv 2002.10957,
        the loss L_AT.
    """
    check_choice("given", given, ("maps", "scores"))
    values = []
    for student, teacher in _attentions(student_features, teacher_features, mask):
        if given == "maps":
            student, teacher = (maps.clamp(min=_NO_ATTENTION).log() for maps in (student, teacher))
        values.append(_attention_divergence(student, teacher, mask))
    return torch.stack(values).mean()


def relation_kl(
    student_feature: Tensor, teacher_feature: Tensor, *, heads: int = 1, mask: Tensor | None = None
) -> Tensor:
    """Relations of tokens (MiniLM, MiniLMv2): KL of self-attention of values; (B, T, D) and (B, T, D') → ().

    Equation:
        R(x) = softmax(x_a x_aᵀ / √d_a) for each relation head a, x cut into heads of d_a = D / heads features;
        mean over heads and tokens of KL(R(t) ‖ R(s))

    Use:
        On queries, keys or values of one layer each, one term for each of the three: the student needs neither the
        teacher's width nor its number of heads. Not for a layer of each size: one, the last or an upper middle one, is
        the method.

    Args:
        student_feature: (B, T, D), for instance all values of a layer, heads side by side.
        teacher_feature: (B, T, D') with any D'; no gradient reaches it.
        heads: relation heads, a divisor of both D and D'. MiniLM uses those of its attention (12), MiniLMv2 more (48).
        mask: (B, T) bool, True where a token counts, in rows and in columns; the others may hold anything.

    Returns:
        () nats per token. 0 where both agree up to a rotation within heads. B · heads · T² numbers are held for each.

    Raises:
        InputError: no tokens, other numbers of them, heads that do not divide, or a mask that does not fit.

    Example:
        >>> import torch
        >>> relation_kl(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), torch.eye(2).unsqueeze(0))
        tensor(0.0294)

    Reference:
        Wang and others 2020 (MiniLM), arXiv 2002.10957, the loss L_VR; Wang and others 2020 (MiniLMv2), arXiv
        2012.15828, section 3.
    """
    student = lone(student_feature, "student_feature", (3,))
    teacher = lone(teacher_feature, "teacher_feature", (3,)).detach().to(student.dtype)
    if student.shape[:2] != teacher.shape[:2]:
        raise InputError(
            "student and teacher do not read the same tokens",
            given=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
            expected="(B, T, D) and (B, T, D') with the same B and T",
        )
    if not isinstance(heads, int) or heads < 1 or student.shape[-1] % heads or teacher.shape[-1] % heads:
        raise InputError(
            "features are cut into relation heads of equal size",
            given=f"heads={heads} for {student.shape[-1]} and {teacher.shape[-1]} features",
            expected="a divisor of both numbers, at least 1",
        )
    if mask is not None:
        check_rows(mask, student.shape[:2])
        student, teacher = blanked(student, mask), blanked(teacher, mask)
    return _attention_divergence(_relations(student, heads), _relations(teacher, heads), mask)


def _relations(feature: Tensor, heads: int) -> Tensor:
    """Scores of tokens with each other, (B, T, D) → (B, heads, T, T)."""
    parts = feature.reshape(*feature.shape[:2], heads, -1).transpose(1, 2)
    return product(parts, parts.mT) / math.sqrt(parts.shape[-1])


def _attentions(students: object, teachers: object, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Attention of both for each layer, zero where a query or key does not count."""
    for student, teacher in layers(students, teachers):
        ours = lone(student, "student_features", (4,))
        theirs = as_float(lone(teacher, "teacher_features", (4,))).detach().to(ours.dtype)
        if ours.shape != theirs.shape or ours.shape[-1] != ours.shape[-2]:
            raise InputError(
                "two attentions do not belong together",
                given=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
                expected="the same shape (B, h, T, T)",
                fix="relation_kl compares transformers with different numbers of heads, with no need for a connector",
            )
        if mask is not None:
            check_rows(mask, torch.Size((ours.shape[0], ours.shape[-1])))
            counted = mask[:, None, :, None] & mask[:, None, None, :]
            ours, theirs = torch.where(counted, ours, 0.0), torch.where(counted, theirs, 0.0)
        yield ours, theirs


def _attention_divergence(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL between softmaxes of scores (B, h, T, T), over keys and averaged over heads and queries that count."""
    # Not −∞, from a model's own mask or from ours: a row without any key would become no number, and so its gradient.
    lowest = torch.finfo(student.dtype).min
    student, teacher = student.clamp(min=lowest), teacher.clamp(min=lowest)
    if mask is not None:
        keys = mask[:, None, None, :]
        student, teacher = torch.where(keys, student, lowest), torch.where(keys, teacher, lowest)
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    values = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return average(values, None if mask is None else mask[:, None, :].expand_as(values))
