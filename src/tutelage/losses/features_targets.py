"""A layer's feature as a target of another kind than a number to copy: a side of zero, a range, a distribution.

The first two read features before their activation, where the sign still says whether a neuron fires.

Shapes:  B batch · T tokens · D features · C channels · H, W height and width.
s is the student's feature, t the teacher's. A channel is the second dimension of maps and the last of anything else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import as_float, average, positive
from tutelage.losses.vectors import matched, per_row

__all__ = ["activation_boundary", "negative_mean", "overhaul", "variational"]

# The authors keep a learned variance at least this far from 0: without it a student that hits exactly gains no end.
_VARIANCE = 1e-5
_START = 5.0


def activation_boundary(
    matched_feature: Tensor, teacher_feature: Tensor, *, margin: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Activation boundaries (AB): on which side of zero the teacher's neurons are; (B, …) and (B, …) → ().

    Equation:
        mean over examples of Σ over elements of (m + s)² where t ≤ 0 and s > −m, of (m − s)² where t > 0 and s ≤ m

    Use:
        To start a student: which neurons fire is handed over first, and the values are learned afterwards. Not on
        features behind a ReLU, whose zeros have lost their side. It is a sum over elements: weights are small, and the
        authors double them from layer to layer.

    Args:
        matched_feature: (B, D), (B, T, D) or (B, C, H, W) before the activation, behind a connector.
        teacher_feature: of the same shape, before its activation; no gradient reaches it.
        margin: m > 0 in the student's unit: how far beyond zero is far enough.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the student's unit, per example. 0 where every sign agrees by at least the margin, so not
        always where both are equal.

    Raises:
        InputError: shapes that differ, a margin that is not above 0, or a mask that does not fit.

    Example:
        >>> import torch
        >>> activation_boundary(torch.tensor([[0.5, -2.0, 0.2, 3.0]]), torch.tensor([[1.0, -1.0, -0.5, 2.0]]))
        tensor(1.6900)

    Reference:
        Heo, Lee, Yun, Choi 2018, arXiv 1811.03233, the surrogate loss.
    """
    positive("margin", margin)
    student, teacher = matched(matched_feature, teacher_feature, mask)
    short = torch.where(teacher > 0, margin - student, margin + student).clamp(min=0.0)
    return _per_example(short.square(), mask)


def overhaul(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    *,
    margin: float | Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Overhaul of feature distillation (OFD): margin ReLU and partial L2; (B, …) and (B, …) → ().

    Equation:
        τ = max(t, m_c); mean over examples of Σ over elements of 0 where s ≤ τ ≤ 0, else (s − τ)²

    Use:
        On features before their ReLU: what is positive is copied, what is negative must only stay so. Not on features
        whose sign means nothing, such as the outputs of a layer norm. It is a sum over elements: the authors' weights
        are 1e−3 for CIFAR and 1e−4 for ImageNet, halved with each layer away from the last.

    Args:
        matched_feature: (B, D), (B, T, D) or (B, C, H, W) before the activation, behind a connector.
        teacher_feature: of the same shape, before its activation; no gradient reaches it.
        margin: m ≤ 0 in the teacher's unit, one for all or (C,) one for each channel: the mean of its negative values,
            as `negative_mean` reads it from a batch norm. None takes that mean from the batch at hand.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per example. 0 where both agree.

    Raises:
        InputError: shapes that differ, a margin above 0 or not one for each channel, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.5, -2, -0.3, 0.2, -1.5]]), torch.tensor([[1, -1, -0.5, -2, -0.1]])
        >>> overhaul(student, teacher, margin=-0.8)
        tensor(1.2900)

    Reference:
        Heo, Kim, Yun, Park, Kwak, Choi 2019, arXiv 1904.01866, section 3.
    """
    student, teacher = matched(matched_feature, teacher_feature, mask)
    least = _batch_margin(teacher) if margin is None else _margin(margin, teacher)
    target = torch.maximum(teacher, least)
    spared = (student <= target) & (target <= 0)
    # The square is computed of 0 where it is spared: an infinity there would spoil the gradient.
    return _per_example(torch.where(spared, 0.0, student - target).square(), mask)


def negative_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """The mean of the negative part of normal numbers: margins for `overhaul`; (C,) and (C,) → (C,).

    Args:
        mean: μ, the bias of the batch norm in front of the activation.
        deviation: σ > 0, the absolute value of its weight.

    Returns:
        μ − σ φ(μ/σ) / Φ(−μ/σ), or −3 σ where less than a thousandth of the numbers is negative. Without a graph.

    Raises:
        InputError: two shapes, or no real numbers.

    Example:
        >>> import torch
        >>> negative_mean(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        tensor([-0.7979, -1.2822])
    """
    if mean.shape != deviation.shape or not (mean.is_floating_point() and deviation.is_floating_point()):
        raise InputError(
            "a margin needs the mean and the deviation of each channel",
            given=f"{tuple(mean.shape)} {mean.dtype}, {tuple(deviation.shape)} {deviation.dtype}",
            expected="floating-point numbers of the same shape (C,)",
        )
    centre, spread = as_float(mean.detach()), as_float(deviation.detach())
    place = centre / spread
    density, share = (-0.5 * place.square()).exp() / math.sqrt(2 * math.pi), torch.special.ndtr(-place)
    return torch.where(share > 1e-3, centre - spread * density / share, -3.0 * spread)


def variational(
    matched_feature: Tensor,
    teacher_feature: Tensor,
    log_variance: Tensor | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Variational information (VID): how likely the teacher's feature is, given the student's; (B, …) and (B, …) → ().

    Equation:
        mean over all elements of ½ (log σ_c² + (t − s)² / σ_c²), σ_c² = exp(v_c) + 1e−5

    Use:
        Where some of the teacher's channels can be predicted and others not: with a learned variance the hopeless ones
        lose their weight. Not without learning it: then it is a scaled squared error. The usual weight is 1.

    Args:
        matched_feature: the predicted mean, (B, D), (B, T, D) or (B, C, H, W), behind a connector.
        teacher_feature: of the same shape; no gradient reaches it.
        log_variance: v, (C,) one for each of the teacher's channels, a parameter that learns with the connector and
            starts at log 5; None stands for that start and does not learn.
        mask: (B,) bool, or (B, T) beside tokens, True where a row counts; the others may hold anything.

    Returns:
        () nats per element, less ½ log 2π. It is a density, so it may be negative; equal features give ½ log σ².

    Raises:
        InputError: shapes that differ, variances that are not one for each channel, or a mask that does not fit.

    Example:
        >>> import torch
        >>> variational(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(1.2047)

    Reference:
        Ahn, Hu, Damianou, Lawrence, Dai 2019, arXiv 1904.05835, with a Gaussian of learned variances.
    """
    student, teacher = matched(matched_feature, teacher_feature, mask)
    if log_variance is None:
        log_variance = student.new_full((_channels(teacher),), math.log(_START - _VARIANCE))
    elif not log_variance.is_floating_point() or log_variance.shape != (_channels(teacher),):
        raise InputError(
            "log_variance has one number for each channel of the teacher's feature",
            given=f"shape {tuple(log_variance.shape)}, {log_variance.dtype}",
            expected=f"floating-point numbers of shape ({_channels(teacher)},)",
        )
    floor = student.new_full((), math.log(_VARIANCE))
    logarithm = _along_channels(torch.logaddexp(log_variance.to(student.dtype), floor), teacher)
    return per_row(0.5 * (logarithm + (teacher - student).square() * (-logarithm).exp()), mask)


def _channels(feature: Tensor) -> int:
    return feature.shape[1] if feature.ndim == 4 else feature.shape[-1]


def _along_channels(values: Tensor, feature: Tensor) -> Tensor:
    """(C,) shaped so that it goes along the channels of a feature."""
    return values.reshape(-1, 1, 1) if feature.ndim == 4 else values


def _per_example(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sums over elements, averaged over examples."""
    if mask is not None and mask.ndim > 1:
        raise InputError(
            "a sum over elements leaves out whole examples only",
            given=f"a mask of shape {tuple(mask.shape)}",
            expected=f"({len(values)},)",
        )
    return average(values.flatten(1).sum(-1), mask)


def _margin(margin: float | Tensor, teacher: Tensor) -> Tensor:
    if isinstance(margin, Tensor):
        if not margin.is_floating_point() or margin.shape != (_channels(teacher),):
            raise InputError(
                "margin has one number for each channel of the teacher's feature",
                given=f"margin of shape {tuple(margin.shape)}, {margin.dtype}",
                expected=f"floating-point numbers ≤ 0 of shape ({_channels(teacher)},)",
            )
        # Their sign is left to the caller: to look would hold up the queue of a graphics card.
        return _along_channels(margin.detach().to(teacher.dtype), teacher)
    if not -math.inf < margin <= 0.0:
        raise InputError("margin is not above 0", given=f"margin={margin}", expected="a finite number ≤ 0")
    return teacher.new_full((), margin)


def _batch_margin(teacher: Tensor) -> Tensor:
    """The mean of each channel's negative values; 0 where it has none. Masked examples are zeros by now."""
    over = (0, 2, 3) if teacher.ndim == 4 else tuple(range(teacher.ndim - 1))
    below = teacher.clamp(max=0.0)
    return _along_channels(below.sum(over) / (below < 0).sum(over).clamp(min=1), teacher)
