"""Features that networks which learn along put out: fused, projected, weighed or filled in before they are compared.

The networks are companions of their term (`tutelage.companions`); here is only what is asked of what they put out.

Shapes:  B batch · T, N tokens · D features · C channels or classes · H, W height and width · S, L layers of the student
and of the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.curricula import check_progress
from tutelage.losses.targets import average, dense, pair, positive
from tutelage.losses.vectors import blanked, check_rows, layers, lone, matched, pooled, product, shape_error
from tutelage.types import Logits

__all__ = [
    "distillation_experts",
    "masked_generation",
    "representation_regression",
    "review",
    "semantic_calibration",
    "vit_mimic",
]

_PYRAMID = (4, 2, 1)  # the sides of the coarser looks at a map
_COLDEST = 1e-10  # below it a slope of a choice may leave single precision


def review(reviewed_features: list[Tensor], teacher_features: list[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Knowledge review (ReviewKD): fused maps beside the teacher's, at several sizes; lists of (B, C, H, W) → ().

    Equation:
        Σ over layers of Σ_l w_l · mean over elements of (pool_l(s) − pool_l(t))² / Σ_l w_l, for the whole map and its
        averages over l × l windows, l those of 4, 2, 1 that are below its side, weighing 1, ½, ¼, … in this order

    Use:
        Several stages of convolutional nets: each of the student's is fused with all deeper ones before it is compared,
        so that an early layer of the teacher also teaches the late ones of the student. Not for tokens or vectors.
        Places go from the earliest to the deepest, before the ReLU where that can be had; the authors weigh it 0.6 to 8
        beside the labels, rising over the first 20 epochs (`warm_up`).

    Args:
        reviewed_features: a list of (B, C, H, W), what fusion makes of the student's layers in the teacher's shapes.
        teacher_features: a list of the same shapes; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per element, added up over layers. 0 where all agree.

    Raises:
        InputError: lists of different lengths, features that are no maps or differ in shape, or a mask that does not
            fit.

    Example:
        >>> import torch
        >>> review([torch.ones(1, 2, 8, 8)], [torch.zeros(1, 2, 8, 8)])
        tensor(1.)
        >>> review([torch.tensor([[[[1.0, -1.0], [0.0, 0.0]]]])], [torch.zeros(1, 1, 2, 2)])
        tensor(0.3333)

    Reference:
        Chen, Liu, Zhao, Jia 2021, CVPR, arXiv 2104.09044, the hierarchical context loss.
    """
    total = torch.zeros(())
    for number, (ours, theirs) in enumerate(layers(reviewed_features, teacher_features)):
        student, teacher = _examples(ours, theirs, mask, (4,))
        value, weights = _apart(student, teacher, mask), 1.0
        coarser = [side for side in _PYRAMID if side < min(student.shape[2:])]
        for level, side in enumerate(coarser, 1):
            coarse = _apart(pooled(student, (side, side)), pooled(teacher, (side, side)), mask)
            value, weights = value + coarse * 0.5**level, weights + 0.5**level
        total = value / weights if number == 0 else total + value / weights
    return total


def semantic_calibration(
    calibrated_features: list[Tensor], calibration: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """Semantic calibration (SemCKD): every layer of the student beside every one of the teacher; (B, S, L) → ().

    Equation:
        mean over examples of (1 / S) Σ_i Σ_j α_ij · mean over elements of (s_ij − t_j)², with Σ_j α_ij = 1

    Use:
        Where nobody knows which layers belong together: attention between layers, for each example, finds out. Not for
        one layer of the teacher: there is nothing to choose. It costs S · L projections. The authors weigh it 400 on
        CIFAR and 50 on ImageNet, beside labels and soft targets.

    Args:
        calibrated_features: a list of 2 · S · L features, (B, C, H, W) or (B, D) each: first the student's layers,
            projected to those of the teacher, row by row, then the teacher's in the same order; no gradient reaches
            these.
        calibration: α, (B, S, L), each row adding up to 1.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per element. 0 where all agree; where every pair is apart by the same
        ℓ, that is ℓ.

    Raises:
        InputError: lists that do not fit the attention, pairs of different shapes, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]])
        >>> semantic_calibration([student, student, teacher, 0 * teacher], torch.tensor([[[0.5, 0.5]]]))
        tensor(1.5000)

    Reference:
        Chen, Mei, Zhang, Wang, Feng, Chen 2021, arXiv 2012.03236, equation 9.
    """
    weights = lone(calibration, "calibration", (3,))
    count = weights.shape[1] * weights.shape[2]
    if not isinstance(calibrated_features, Sequence) or len(calibrated_features) != 2 * count:
        given = len(calibrated_features) if isinstance(calibrated_features, Sequence) else type(calibrated_features)
        raise InputError(
            "the features do not belong to this attention between layers",
            given=f"{given} features, attention of shape {tuple(weights.shape)}",
            expected="S · L features of the student, then as many of the teacher, for attention (B, S, L)",
        )
    if mask is not None:
        check_rows(mask, weights.shape[:1])
        weights = blanked(weights, mask)
    found = []
    for ours, theirs in layers(calibrated_features[:count], calibrated_features[count:]):
        student, teacher = _examples(ours, theirs, mask, (2, 3, 4))
        if len(student) != len(weights):
            raise InputError(
                "features and attention are of different examples",
                given=f"{len(student)} and {len(weights)} examples", expected="the same batch",
            )  # fmt: skip
        found.append((student - teacher).square().flatten(1).mean(-1))
    values = torch.stack(found, -1) * weights.flatten(1)  # (B, S · L)
    return average(values.sum(-1) / weights.shape[1], mask)


def representation_regression(
    regressed: list[Tensor],
    teacher_feature: Tensor,
    teacher_logits: Logits,
    *,
    beta: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Softmax regression (SRRL): the student's feature through the teacher's last layer; (B, D) and (B, C) → ().

    Equation:
        mean over elements of (f − t)² + β · mean over elements of (W f + b − z_t)², t averaged over places, W and b the
        teacher's last layer

    Use:
        A student whose last feature should mean to the teacher's classifier what the teacher's own means: what the
        classifier does not see counts less. Not where the teacher ends in something else than one linear layer. Both
        parts weigh 1 in the authors' recipes, beside the labels.

    Args:
        regressed: [f (B, D), W f + b (B, C)], the student's feature brought into the teacher's width and averaged over
            places, and the teacher's logits of it.
        teacher_feature: (B, D) or (B, D, H, W), what the teacher's last layer reads; no gradient reaches it.
        teacher_logits: (B, C), or top-k with k = C; no gradient reaches it.
        beta: weight of the second part, ≥ 0.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per element, plus squared logits per class. 0 where the features agree.

    Raises:
        InputError: shapes that do not belong together, a negative weight, a mask that does not fit, or a top-k that
            left classes out.

    Example:
        >>> import torch
        >>> feature, logits = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> representation_regression([feature, logits], torch.tensor([[1.0, 2.0]]), torch.zeros(1, 3))
        tensor(0.8333)

    Reference:
        Yang, Martinez, Bulat, Tzimiropoulos 2021, ICLR, "Knowledge distillation via softmax regression representation
        learning"; as compared by Chen et al. 2022, CVPR, arXiv 2203.14001.
    """
    if not 0.0 <= beta < math.inf:
        raise InputError("weights cannot be negative", given=f"beta={beta}", expected="a number ≥ 0")
    if not isinstance(regressed, Sequence) or len(regressed) != 2:
        given = f"{len(regressed)} tensors" if isinstance(regressed, Sequence) else type(regressed).__name__
        raise InputError(
            "this loss reads a feature and the logits that the teacher's last layer makes of it",
            given=given, expected="a list of (B, D) and (B, C)",
        )  # fmt: skip
    told = lone(teacher_feature, "teacher_feature", (2, 4))
    # Blank first: a mean over places would carry a NaN on.
    told = told if mask is None else blanked(told, mask)
    student, teacher = _examples(regressed[0], told.mean((2, 3)) if told.ndim == 4 else told, mask, (2,))
    whole = dense(teacher_logits, "representation_regression", mask)
    ours, theirs = pair(lone(regressed[1], "regressed", (2,)), whole, mask)
    if len(ours) != len(student):
        raise shape_error(regressed[0], regressed[1], "as many rows of one as of the other")
    return _apart(student, teacher, mask) + beta * _apart(ours, theirs, mask)


def vit_mimic(matched_features: list[Tensor], teacher_features: list[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Mimicking of early layers (ViTKD): tokens behind a linear layer beside the teacher's; lists of (B, T, D) → ().

    Equation:
        mean over examples of Σ over layers, tokens and features of (s − t)²

    Use:
        The first two blocks of a vision transformer, with `masked_generation` at the last one. Not with a weight of
        ordinary size: it is a sum, and the authors weigh it 3e−5. Not for maps, where `hint` is the usual choice.

    Args:
        matched_features: a list of (B, T, D) behind connectors.
        teacher_features: a list of the same shapes; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per example. 0 where both agree.

    Raises:
        InputError: lists of different lengths, features that are no tokens or differ in shape, or a mask that does not
            fit.

    Example:
        >>> import torch
        >>> vit_mimic([torch.tensor([[[1.0, 2.0], [0.5, 0.0]]])], [torch.zeros(1, 2, 2)])
        tensor(5.2500)

    Reference:
        Yang, Li, Zeng, Li, Yuan, Li 2022, arXiv 2209.02432, the mimicking of shallow layers.
    """
    total = torch.zeros(())
    for number, (ours, theirs) in enumerate(layers(matched_features, teacher_features)):
        student, teacher = _examples(ours, theirs, mask, (3,))
        value = average((student - teacher).square().flatten(1).sum(-1), mask)
        total = value if number == 0 else total + value
    return total


def masked_generation(
    generated_feature: list[Tensor], teacher_feature: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """Generation of masked tokens (ViTKD): the teacher's last layer out of half the student's; (B, N, D) → ().

    Equation:
        (1 / λ) · mean over examples of Σ over masked tokens and all features of (g − t)², λ the share that is masked

    Use:
        The last block of a vision transformer, where copying token by token does harm: the student's tokens, some of
        them hidden, must suffice to make up the teacher's. Not with a weight of ordinary size: it is a sum, and the
        authors weigh it 3e−6.

    Args:
        generated_feature: [g (B, N, D), masked (B, N) bool], the tokens that were made up, and which of them were
            hidden.
        teacher_feature: (B, N, D), or (B, 1 + N, D) whose first token stands for the class and is left out; no gradient
            reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per example, of all tokens if the hidden ones are like the others. 0
        where both agree on those.

    Raises:
        InputError: shapes that do not belong together, or a mask that does not fit.

    Example:
        >>> import torch
        >>> made, hidden = torch.ones(1, 4, 2), torch.tensor([[True, False, True, False]])
        >>> masked_generation([made, hidden], torch.zeros(1, 4, 2))
        tensor(8.)
        >>> masked_generation([1.5 * made, hidden], torch.zeros(1, 5, 2)) / 32
        tensor(0.5625)

    Reference:
        Yang, Li, Zeng, Li, Yuan, Li 2022, arXiv 2209.02432, the generation of deep layers.
    """
    if not isinstance(generated_feature, Sequence) or len(generated_feature) != 2:
        raise InputError(
            "this loss reads tokens and which of them were hidden", given=type(generated_feature).__name__,
            expected="a list of (B, N, D) and (B, N)",
        )  # fmt: skip
    made, told = lone(generated_feature[0], "generated_feature", (3,)), lone(teacher_feature, "teacher_feature", (3,))
    hidden = generated_feature[1]
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool or hidden.shape != made.shape[:2]:
        shown = f"{tuple(hidden.shape)} {hidden.dtype}" if isinstance(hidden, Tensor) else type(hidden).__name__
        raise InputError(
            "nothing says which tokens were hidden", given=shown, expected=f"{tuple(made.shape[:2])} torch.bool"
        )
    extra = told.shape[1] - made.shape[1]
    student, teacher = _examples(made, told[:, 1:] if extra == 1 else told, mask, (3,))
    square = (student - teacher).square().sum(-1)  # (B, N)
    share = hidden.to(square.dtype).mean(-1).clamp(min=0.5 / hidden.shape[1])  # where nothing is hidden the sum is 0
    return average(torch.where(hidden, square, 0.0).sum(-1) / share, mask)


def distillation_experts(
    expert_guesses: list[Tensor],
    progress: float,
    *,
    start: float = 1.0,
    end: float = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """Distillation experts (DE): the teacher's embedding from the expert that it chooses; (B, M, D) → ().

    Equation:
        mean over examples of ‖t − Σ_m c_m E_m‖², c = softmax((a + g) / τ), τ = start · (end / start)^progress, a the
        gate's logits of t, g Gumbel noise

    Use:
        Where one small net is too little to make the teacher's embedding out of the student's, as of recommenders whose
        users are of many kinds: similar ones share an expert. What the teacher knows of an example also chooses the
        expert, at first by chance and softly, in the end one of them alone. Not as a measure of agreement: the gate
        sees what is to be guessed. With one expert it is `hint` behind a small net, summed. It is a sum over features;
        the authors weigh it 0.01, with 30 experts and an end of 1e−10. Where two experts are equally good a choice has
        a slope of 1 / (4 τ), which is then 2.5e9; at 0.01, where 19 choices in 20 are as hard (99 % for one), it is 25.

    Args:
        expert_guesses: [E (B, M, D), a + g (B, M), t (B, D)], what each expert makes of the student's embedding, the
            noisy logits of the gate, and the teacher's embedding; no gradient reaches t.
        progress: 0 at the first step of training, 1 at the end.
        start: > 0, the temperature τ of choices at the first step, no unit.
        end: in [1e−10, start], that at the end.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () in the square of the teacher's unit, per example. 0 where the chosen guesses are right.

    Raises:
        InputError: tensors that do not belong together, temperatures or a progress out of range, or a mask that does
            not fit.

    Example:
        >>> import torch
        >>> guesses, told = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]]), torch.tensor([[1.0, 1.0]])
        >>> distillation_experts([guesses, torch.tensor([[0.5, 0.5]]), told], 0.0)
        tensor(4.2500)
        >>> distillation_experts([guesses, torch.tensor([[0.5, 0.2]]), told], 1.0)
        tensor(1.)

    Reference:
        Kang, Hwang, Kweon, Yu 2020, CIKM, arXiv 2012.04357, section 3.1.
    """
    check_progress(progress)
    positive("start", start)
    if not _COLDEST <= end <= start:
        raise InputError(
            "choices among experts get harder", given=f"start={start}, end={end}", expected="1e-10 ≤ end ≤ start"
        )
    guesses, choices, told = _guessed(expert_guesses, mask)
    temperature = start * (end / start) ** progress
    # The greatest becomes 0 first: divided by a small temperature it might be infinite.
    shares = ((choices - choices.detach().amax(-1, keepdim=True)) / temperature).softmax(-1)
    guess = product(shares.unsqueeze(1), guesses).squeeze(1)
    return average((told - guess).square().sum(-1), mask)


def _guessed(expert_guesses: object, mask: Tensor | None) -> list[Tensor]:
    """What experts guess (B, M, D), what chooses them (B, M), and what is to be guessed (B, D), zero where masked.

    Raises:
        InputError: they do not belong together.
    """
    expected = "a list of (B, M, D), (B, M) and (B, D)"
    if not isinstance(expert_guesses, Sequence) or len(expert_guesses) != 3:
        count = f"{len(expert_guesses)} tensors" if isinstance(expert_guesses, Sequence) else type(expert_guesses)
        raise InputError(
            "this loss reads what experts guess, how they are chosen, and what is to be guessed",
            given=str(count), expected=expected,
        )  # fmt: skip
    kinds = zip(expert_guesses, ("what experts guess", "what chooses them", "teacher_feature"), (3, 2, 2), strict=True)
    guesses, choices, told = (lone(one, name, (dimensions,)) for one, name, dimensions in kinds)
    if choices.shape != guesses.shape[:2] or told.shape != (len(guesses), guesses.shape[2]):
        raise InputError(
            "guesses, choices and what is to be guessed do not belong together",
            given=", ".join(str(tuple(one.shape)) for one in (guesses, choices, told)), expected=expected,
        )  # fmt: skip
    found = [guesses, choices.to(guesses.dtype), told.detach().to(guesses.dtype)]
    return found if mask is None else [blanked(one, mask) for one in found]


def _examples(
    student: Tensor, teacher: Tensor, mask: Tensor | None, dimensions: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Two features of one shape; a mask says of whole examples whether they count."""
    if mask is not None and isinstance(student, Tensor) and student.ndim:
        check_rows(mask, student.shape[:1])
    return matched(student, teacher, mask, dimensions)


def _apart(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over elements of the squared difference."""
    return average((student - teacher).square().flatten(1).mean(-1), mask)
