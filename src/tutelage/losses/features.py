"""What a layer puts out, matched: the values themselves, where they are large, and how they turn into the next layer's.

A feature is one tensor of a layer: (B, D), tokens (B, T, D) or maps (B, C, H, W). Losses that read `matched_feature`
compare numbers with numbers and need equal shapes, which a connector makes; the others summarise first, so that
channels may differ. No gradient reaches the teacher.

Shapes:  B batch · T tokens · D features · C channels · H, W height and width · L places (T, or H · W).
s is the student's feature, t the teacher's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import average
from tutelage.losses.vectors import (
    channels_and_places,
    check_choice,
    layers,
    length,
    matched,
    per_row,
    product,
    shape_error,
    sized,
    unit,
)

__all__ = ["attention_transfer", "factor_transfer", "flow", "hint", "neuron_selectivity"]


def hint(
    matched_feature: Tensor, teacher_feature: Tensor, *, whiten: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Hints (FitNets): the mean squared error between two features; (B, …) and (B, …) → ().

    Equation:
        mean over all elements of (s − t)², or of (s − W(t))² with W(t) = (t − mean t) / sqrt(var t + 1e−5), both over
        the channels of one place

    Use:
        The plain way to hand over a layer. Not behind a connector that ends in a ReLU where the teacher's feature has
        negative values: it could never reach them. Usual weights are 1 to 100, and depend on the feature's size, unless
        it is whitened.

    Args:
        matched_feature: (B, D), (B, T, D) or (B, C, H, W), behind a connector.
        teacher_feature: of the same shape; no gradient reaches it.
        whiten: compare with the teacher's feature brought to mean 0 and variance 1, which helps where a few of its
            channels are a hundred times as large as the rest.
        mask: (B,) bool, or (B, T) beside tokens, True where a row counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit. 0 where both agree (whitened: where the student has W(t)).

    Raises:
        InputError: shapes that differ, or a mask that does not fit.

    Example:
        >>> import torch
        >>> hint(torch.tensor([[[[1.0, 1.0]], [[1.0, 0.0]]]]), torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]]))
        tensor(0.5000)

    Reference:
        Romero and others 2015, arXiv 1412.6550, equation 3 (there half the sum); whitening: Wei and others 2022, arXiv
        2205.14141.
    """
    student, teacher = matched(matched_feature, teacher_feature, mask)
    if whiten:
        places = teacher.movedim(1, -1) if teacher.ndim == 4 else teacher
        whitened = F.layer_norm(places, places.shape[-1:], eps=1e-5)
        teacher = whitened.movedim(-1, 1) if teacher.ndim == 4 else whitened
    return per_row((student - teacher).square(), mask)


def attention_transfer(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    power: float = 2.0,
    distance: str = "square",
    mask: Tensor | None = None,
) -> Tensor:
    """Attention transfer: where a layer's activity is, not what it is; (B, C, H, W) and (B, C', H', W') → ().

    Equation:
        Q(x) = Σ_c |x_c|^p over places, divided by its length. "square": mean over examples and places of
        (Q(s) − Q(t))², as the authors' code has it; "norm": mean over examples of ‖Q(s) − Q(t)‖₂, as their paper

    Use:
        Between convolutional nets of any widths. Not where what a channel means should be handed over, since only the
        sum over channels is seen. The usual weight of "square" is 1000. Sum or mean over channels is the same here.

    Args:
        student_feature: (B, C, H, W), or tokens (B, T, D), whose places are tokens.
        teacher_feature: of the same kind, with any number of channels; the larger map is averaged to the smaller one's
            height and width. No gradient reaches it.
        power: p ≥ 1; higher looks at the strongest channels only.
        distance: "square" or "norm".
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to a factor, which may be each example's own. A map of zeros has no
        direction and stands as zeros.

    Raises:
        InputError: features without places, of different kinds or examples, or an option out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[[1.0, 1]], [[1, 0]]]]), torch.tensor([[[[1.0, 2]], [[2, 0]]]])
        >>> attention_transfer(student, teacher)
        tensor(0.0222)

    Reference:
        Zagoruyko, Komodakis 2017, arXiv 1612.03928, equation 2.
    """
    if not 1.0 <= power < math.inf:
        raise InputError("power is at least 1", given=f"power={power}", expected="1 ≤ power < ∞")
    check_choice("distance", distance, ("square", "norm"))
    student, teacher = channels_and_places(student_feature, teacher_feature.detach(), mask)
    difference = _attention(student, power) - _attention(teacher, power)
    return per_row(difference.square() if distance == "square" else length(difference).unsqueeze(-1), mask)


def _attention(places: Tensor, power: float) -> Tensor:
    """(B, C, L) → (B, L), of length 1."""
    # The length takes every factor out again; powers of 1e4 are large, those of 1e-4 soon nothing.
    level, _ = sized(places.flatten(1))
    return unit(level.reshape(places.shape).abs().pow(power).mean(1))


def flow(
    matched_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """Flow of the solution (FSP): how each layer's channels go with the next one's; two lists of (B, C, H, W) → ().

    Equation:
        G(x, x') = (1 / L) Σ over places of x x'ᵀ, (C, C'); mean over pairs of neighbouring layers, examples and
        elements of (G(s_l, s_l+1) − G(t_l, t_l+1))²

    Use:
        Where what is taught is the way from layer to layer. Not for layers whose widths differ much from the teacher's:
        the channels are compared one with one. The usual weight is 50, in a first phase of its own.

    Args:
        matched_features: two or more (B, C_l, H_l, W_l), or tokens (B, T, D_l), in order, behind connectors; sizes may
            differ from the teacher's, channels not. Neighbours are averaged to the smaller height and width.
        teacher_features: as many, with the same channels; no gradient reaches them.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the fourth power of the feature's unit. 0 where both agree.

    Raises:
        InputError: fewer than two layers, channels that differ, features without places, or a mask that does not fit.

    Example:
        >>> import torch
        >>> first = torch.tensor([[[[1.0, 1.0]], [[1.0, 0.0]]]]), torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]])
        >>> second = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])
        >>> flow([first[0], second[0]], [first[1], second[1]])
        tensor(0.5625)

    Reference:
        Yim, Joo, Bae, Kim 2017, CVPR, equations 1 and 2.
    """
    pairs = layers(matched_features, teacher_features, least=2)
    values = []
    for (student, teacher), (next_student, next_teacher) in itertools.pairwise(pairs):
        ours = _gram(*channels_and_places(student, next_student, mask))
        theirs = _gram(*channels_and_places(teacher.detach(), next_teacher.detach(), mask)).to(ours.dtype)
        if ours.shape != theirs.shape:
            wrong = (student, teacher) if ours.shape[:-1] != theirs.shape[:-1] else (next_student, next_teacher)
            raise shape_error(*wrong, "the same examples and as many channels of one as of the other")
        values.append(per_row((ours - theirs).square(), mask))
    return torch.stack(values).mean()


def _gram(first: Tensor, second: Tensor) -> Tensor:
    """(B, C, L), (B, C', L) → (B, C, C')."""
    return product(first, second.mT) / first.shape[-1]


def neuron_selectivity(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Neuron selectivity (NST): where channels look, as a distribution; (B, C, H, W) and (B, C', H', W') → ().

    Equation:
        mean over examples of MMD² between the channels of s and of t, each a vector over places of length 1, with the
        kernel (xᵀy)²: mean k(s, s') + mean k(t, t') − 2 mean k(s, t) = ‖ŝᵀŝ / C − t̂ᵀt̂ / C'‖_F²

    Use:
        Between convolutional nets of any widths, where attention transfer's single sum is too coarse. Not for maps of
        1×1: there every channel looks at the same place. The usual weight is 50.

    Args:
        student_feature: (B, C, H, W), or tokens (B, T, D), whose places are tokens.
        teacher_feature: of the same kind, with any number of channels; the larger map is averaged to the smaller one's
            height and width. No gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit, at most 2. 0 where both agree, also up to a factor for each channel. A channel of zeros looks
        nowhere. Of the two forms the one with the smaller matrices is computed, L² or C² numbers for each example.

    Raises:
        InputError: features without places, of different kinds or examples, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[[1.0, 1]], [[1, 0]]]]), torch.tensor([[[[1.0, 2]], [[2, 0]]]])
        >>> neuron_selectivity(student, teacher)
        tensor(0.0500)

    Reference:
        Huang, Wang 2017, arXiv 1707.01219, with the polynomial kernel of degree 2 and offset 0.
    """
    student, teacher = (unit(one) for one in channels_and_places(student_feature, teacher_feature.detach(), mask))
    if student.shape[-1] <= max(student.shape[1], teacher.shape[1]):
        difference = product(student.mT, student) / student.shape[1] - product(teacher.mT, teacher) / teacher.shape[1]
        values = difference.square().sum((-2, -1))
    else:
        own, theirs, both = (
            product(one, other.mT).square().mean((-2, -1))
            for one, other in ((student, student), (teacher, teacher), (student, teacher))
        )
        values = own + theirs - 2.0 * both
        # Rounding may leave a little less than nothing; the gradient is not touched.
        values = values + (values.clamp(min=0.0) - values).detach()
    return values.mean() if mask is None else average(values, mask)


def factor_transfer(matched_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Factor transfer: two factors, compared as directions; (B, …) and (B, …) → ().

    Equation:
        mean over examples and elements of |s / ‖s‖₂ − t / ‖t‖₂|, the lengths over all elements of an example

    Use:
        On a teacher's feature that a paraphraser (an autoencoder, trained before) has made smaller. Not as a copy of
        the values: the size of every example's factor is left free. The paper sums over elements; with the mean, a
        usual weight is 200.

    Args:
        matched_feature: (B, …), the translator's output: a connector is one.
        teacher_feature: of the same shape, the paraphraser's output; the plain feature where there is none. No gradient
            reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to a factor, which may be each example's own. A feature of zeros has no
        direction and stands as zeros.

    Raises:
        InputError: shapes that differ, or a mask that does not fit.

    Example:
        >>> import torch
        >>> factor_transfer(torch.tensor([[2.0, 1.0]]), torch.tensor([[5.0, 4.0]]))
        tensor(0.1455)

    Reference:
        Kim, Park, Kwak 2018, arXiv 1802.04977, the loss L_FT with p = 1.
    """
    student, teacher = matched(matched_feature, teacher_feature, mask)
    if mask is not None and mask.ndim > 1:
        raise InputError(
            "factors are compared whole", given=f"a mask of shape {tuple(mask.shape)}", expected=f"({len(student)},)"
        )
    return per_row((unit(student.flatten(1)) - unit(teacher.flatten(1))).abs(), mask)
