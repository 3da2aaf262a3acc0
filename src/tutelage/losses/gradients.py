"""What answers do around an example: how they change with the input or a layer, and what an attack makes of them.

The first three losses compare gradients, which somebody else has taken: of one number of each example (its label's
logit, say) with respect to what stands in the parameter's name. The student's keeps its graph, so that the step goes
through a second derivative; the teacher's is a constant. The other three compare logits on attacked inputs.

Shapes:  B batch · T tokens · D features · C channels, or classes of logits · H, W height and width.
g is a gradient, x an input and x' the same attacked; S the student's distribution at temperature 1, T(x) the teacher's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.losses.divergences import divergence, soft_target
from tutelage.losses.targets import as_float, average, blank, check_labels, dense, refuse_labels
from tutelage.losses.vectors import blanked, channels_and_places, check_choice, check_rows, length, lone, sized, unit
from tutelage.types import Logits

__all__ = [
    "adversarially_robust", "feature_gradient_matching", "grad_cam", "introspective", "jacobian_matching",
    "kernels_with_derivatives", "robust_soft_label",
]  # fmt: skip


def jacobian_matching(
    student_input_gradient: Tensor,
    teacher_input_gradient: Tensor,
    *,
    normalised: bool = True,
    distance: str = "square",
    mask: Tensor | None = None,
) -> Tensor:
    """Jacobian matching, and Sobolev training: answers change alike with the input; (B, …) and (B, …) → ().

    Equation:
        mean over examples of ‖g_s / ‖g_s‖₂ − g_t / ‖g_t‖₂‖₂² ("square"), or of its root ("norm"); lengths over all
        elements of an example; with normalised=False of ‖g_s − g_t‖₂², Sobolev training of order 1

    Use:
        Beside a loss on answers, above all with few examples: the gradient says what the teacher would answer nearby.
        Not alone: it fixes answers only up to a constant. Take the label's logit or the teacher's greatest for one row
        of the Jacobian, a projection on random signs for all rows in the mean. Gradient-based attention transfer is
        the cross-entropy's gradient with normalised=False, distance="norm". A step costs about three times as much.

    Args:
        student_input_gradient: (B, …) of one number of each example, with its graph.
        teacher_input_gradient: of the same shape and of the same number; no gradient reaches it.
        normalised: compare directions. Sizes are compared too without; these differ by powers of ten between examples.
        distance: "square" or "norm".
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit, from 0 to 4 ("norm": 2); without normalisation in the gradient's unit squared ("norm": in
        it). 0 where both agree. A gradient of zeros has no direction and stands as zeros.

    Raises:
        InputError: shapes that differ, a distance that is unknown, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
        >>> jacobian_matching(student, teacher)
        tensor(1.1056)

    Reference:
        Srinivas, Fleuret 2018, arXiv 1803.00443; Czarnecki and others 2017, arXiv 1706.04859, equation 1;
        "norm" of the cross-entropy's gradient: Zagoruyko, Komodakis 2017, arXiv 1612.03928, section 3.2.
    """
    return _apart(student_input_gradient, teacher_input_gradient, normalised, distance, mask)


def feature_gradient_matching(
    student_feature_gradient: Tensor,
    teacher_feature_gradient: Tensor,
    *,
    normalised: bool = True,
    distance: str = "square",
    mask: Tensor | None = None,
) -> Tensor:
    """Gradients at a layer: what the rest of the net makes of its output; (B, …) and (B, …) → ().

    Equation:
        as `jacobian_matching`, with g the gradient with respect to what a layer puts out

    Use:
        Where both nets embed inputs in the same space, or one grew out of the other: a language model's embeddings
        have gradients, its tokens have none. Not for layers of other widths, for which `grad_cam` is, and not for
        weights: their gradients have different shapes.

    Args:
        student_feature_gradient: (B, D), (B, T, D) or (B, C, H, W) of one number of each example, with its graph.
        teacher_feature_gradient: of the same shape and of the same number; no gradient reaches it.
        normalised: compare directions, over all elements of an example.
        distance: "square" or "norm".
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit, from 0 to 4 ("norm": 2); without normalisation in the gradient's unit squared ("norm": in
        it). 0 where both agree.

    Raises:
        InputError: shapes that differ, a distance that is unknown, or a mask that does not fit.

    Example:
        >>> import torch
        >>> feature_gradient_matching(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(0.4000)

    Reference:
        Wang, Li, Sun 2022, arXiv 2211.01071, with respect to the embeddings of language models.
    """
    return _apart(student_feature_gradient, teacher_feature_gradient, normalised, distance, mask)


def grad_cam(
    student_feature: Tensor,
    teacher_feature: Tensor,
    student_feature_gradient: Tensor,
    teacher_feature_gradient: Tensor,
    *,
    distance: str = "absolute",
    mask: Tensor | None = None,
) -> Tensor:
    """Attention by gradients (Grad-CAM): which places speak for a class; four features (B, C, H, W) → ().

    Equation:
        A = ReLU(Σ_c a_c F_c) over places, with a_c the mean over places of the gradient at channel c, divided by its
        length. "absolute": mean over examples of Σ |A_s − A_t| over places; "square": mean over examples and places
        of (A_s − A_t)²

    Use:
        Between nets of any widths, where not all activity matters but what led to the answer. Not for layers whose
        places are already averaged away. Take the gradient of the label's logit, or of the teacher's greatest.

    Args:
        student_feature: (B, C, H, W), or tokens (B, T, D), whose places are tokens.
        teacher_feature: of the same kind, with any number of channels; the larger map is averaged to the smaller one's
            height and width. No gradient reaches it.
        student_feature_gradient: of the shape of student_feature, with its graph.
        teacher_feature_gradient: of the shape of teacher_feature; no gradient reaches it.
        distance: "absolute" or "square".
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to a factor, which may be each example's own. Where nothing speaks for
        the class the map is zeros and stands as such.

    Raises:
        InputError: features without places, of different kinds or examples, a gradient of another shape than its
            feature, or an option out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, 0.0]], [[1.0, 1.0]]]])
        >>> grad_cam(student, teacher, torch.ones(1, 1, 1, 2), torch.ones(1, 2, 1, 2))
        tensor(1.0797)

    Reference:
        Dhar and others 2019, arXiv 1811.08051, the loss L_AD; the maps: Selvaraju and others 2017, arXiv
        1610.02391.
    """
    check_choice("distance", distance, ("absolute", "square"))
    ours = _cam(student_feature, student_feature_gradient, "student_feature", mask)
    theirs = _cam(teacher_feature.detach(), teacher_feature_gradient.detach(), "teacher_feature", mask)
    ours, theirs = (unit(one.flatten(1)) for one in channels_and_places(ours, theirs, mask))
    values = (ours - theirs).abs().sum(-1) if distance == "absolute" else (ours - theirs).square().mean(-1)
    return average(values, mask)


def adversarially_robust(
    adversarial_logits: Tensor, teacher_logits: Logits, *, temperature: float = 30.0, mask: Tensor | None = None
) -> Tensor:
    """Adversarially robust distillation (ARD): the clean answer, also under attack; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of KL(T(x) ‖ softmax(z_s(x') / T)), the teacher's distribution at temperature T as well;
        x' attacks the student's cross-entropy with the labels

    Use:
        With a teacher that is robust itself; that of a plain one hands over little. Not for accuracy on clean inputs,
        which it costs. The paper's loss is this with weight α and `cross_entropy` with weight 1 − α; the authors run
        α = 1 and divide by the number of classes too, so their weights do not carry over.

    Args:
        adversarial_logits: (…, C), the student's on attacked inputs.
        teacher_logits: (…, C) or top-k, on clean inputs; no gradient reaches it.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where the attack changes nothing and both agree.

    Raises:
        InputError: shapes that do not belong together, or a temperature that is not above 0 or not that of the top-k.

    Example:
        >>> import torch
        >>> attacked, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> adversarially_robust(attacked, teacher, temperature=4.0)
        tensor(0.9056)

    Reference:
        Goldblum, Fowl, Feizi, Goldstein 2020, arXiv 1905.09747.
    """
    return soft_target(adversarial_logits, teacher_logits, temperature=temperature, mask=mask)


def robust_soft_label(
    student_logits: Tensor,
    teacher_logits: Logits,
    adversarial_logits: Tensor,
    *,
    share: float = 5 / 6,
    mask: Tensor | None = None,
) -> Tensor:
    """Robust soft labels (RSLAD): the teacher in place of every label; (…, C), (…, C) and (…, C) → ().

    Equation:
        mean over rows of a KL(T(x) ‖ S(x')) + (1 − a) KL(T(x) ‖ S(x)); x' attacks KL(T(x) ‖ S(x')) itself

    Use:
        With a robust teacher, and an attack that aims at its answer instead of at labels. Not together with a loss on
        labels: to do without them is the method. Everything is at temperature 1.

    Args:
        student_logits: (…, C) on clean inputs.
        teacher_logits: (…, C) or top-k, on clean inputs; no gradient reaches it.
        adversarial_logits: (…, C), the student's on attacked inputs.
        share: a in [0, 1], the part of the attacked inputs.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. 0 where the attack changes nothing and both agree. No T².

    Raises:
        InputError: shapes that do not belong together, or a share outside [0, 1].

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> robust_soft_label(student, teacher, torch.tensor([[0.0, 2.0, 0.5, 0.0]]))
        tensor(1.4226)

    Reference:
        Zi, Zhao, Ma, Jiang 2021, arXiv 2108.07969, with the weights of the authors' code.
    """
    if not 0.0 <= share <= 1.0:
        raise InputError("share is a part of the whole", given=f"share={share}", expected="a number in [0, 1]")
    attacked, clean = (
        soft_target(logits, teacher_logits, temperature=1.0, mask=mask)
        for logits in (adversarial_logits, student_logits)
    )
    return share * attacked + (1.0 - share) * clean


def introspective(
    student_logits: Tensor,
    teacher_logits: Logits,
    adversarial_logits: Tensor,
    teacher_adversarial_logits: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Introspective distillation (IAD): where the teacher falters, trust oneself; four times (…, C), and (…) → ().

    Equation:
        mean over rows of KL(T(x) ‖ S(x')) + (1 − w) KL(S(x) ‖ S(x')), with w = p_y^β and p_y what the teacher gives the
        label on x'; x' attacks the student's cross-entropy with the labels

    Use:
        As `adversarially_robust`, with a teacher that the student's attacks mislead at times. Not from the first step:
        the student's own answers must be worth something, so its authors begin at epoch 60 of 200; until then use
        `adversarially_robust` at temperature 1, by weights that move. Not for mixed examples, which have no one label.

    Args:
        student_logits: (…, C) on clean inputs; a gradient goes here too.
        teacher_logits: (…, C) or top-k, on clean inputs; no gradient reaches it.
        adversarial_logits: (…, C), the student's on attacked inputs.
        teacher_adversarial_logits: (…, C), the teacher's on the same attacked inputs; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        beta: β ≥ 0; at 0 the teacher is trusted always.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. 0 where the attack changes nothing and both agree. No T².

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a label that is not a class.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> introspective(student, teacher, student - teacher, teacher / 2, torch.tensor([0]))
        tensor(2.8524)

    Reference:
        Zhu and others 2022, arXiv 2106.04928, the loss IAD-I as the authors' code has it, at its temperature.
    """
    if not 0.0 <= beta < math.inf:
        raise InputError("an exponent cannot be negative", given=f"beta={beta}", expected="beta ≥ 0")
    taught = soft_target(adversarial_logits, teacher_logits, temperature=1.0, mask=mask)
    rows = [as_float(student_logits), as_float(adversarial_logits)]
    rows.append(dense(teacher_adversarial_logits, "introspective", mask))
    if not all(one.shape == rows[0].shape and one.is_floating_point() for one in rows):
        raise InputError(
            "answers to clean and to attacked inputs do not belong together",
            given=", ".join(f"{tuple(one.shape)} {one.dtype}" for one in rows),
            expected="the student's clean, its attacked and the teacher's attacked, numbers of the same shape (…, C)",
        )
    check_labels(labels, rows[0])
    if mask is not None:
        rows, labels = [blank(one, mask) for one in rows], torch.where(mask, labels, 0)
    log_clean, log_attacked, log_teacher = (one.log_softmax(-1) for one in rows)
    try:
        trust = (beta * log_teacher.gather(-1, labels.unsqueeze(-1)).squeeze(-1)).exp()
    except (IndexError, RuntimeError) as error:
        refuse_labels(error, labels, rows[0].shape[-1])
        raise
    return taught + average((1.0 - trust) * divergence(log_clean, log_attacked), mask)


@contextlib.contextmanager
def kernels_with_derivatives(model: nn.Module, *, twice: bool = True) -> Iterator[None]:
    """Run a model by kernels that can be differentiated, in eval mode too, and a second time where that is asked for.

    Fused attention has no second derivative on any device, and cuDNN's recurrent layers neither that nor a first one in
    eval mode. Both have slower twins with the same results up to rounding.
    """
    with contextlib.ExitStack() as stack:
        if twice:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        cudnn = torch.backends.cudnn
        if any(isinstance(layer, nn.RNNBase) for layer in model.modules()):
            stack.enter_context(
                cudnn.flags(enabled=False, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic)
            )
        yield


def _pair(student: Tensor, teacher: Tensor, name: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape as rows (B, D), the second without a graph.

    Raises:
        InputError: they differ in shape, or the mask does not fit.
    """
    ours, theirs = lone(student, f"student_{name}"), lone(teacher, f"teacher_{name}")
    if ours.shape != theirs.shape:
        raise InputError(
            "two gradients do not have the same shape",
            given=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
            expected="equal shapes: gradients with respect to the same inputs, or to layers of the same size",
            fix="grad_cam compares layers of different widths",
        )
    theirs = theirs.detach().to(ours.dtype)
    if mask is not None:
        check_rows(mask, ours.shape[:1])
        ours, theirs = blanked(ours, mask), blanked(theirs, mask)
    return ours.flatten(1), theirs.flatten(1)


def _apart(student: Tensor, teacher: Tensor, normalised: bool, distance: str, mask: Tensor | None) -> Tensor:
    check_choice("distance", distance, ("square", "norm"))
    ours, theirs = _pair(student, teacher, "gradient", mask)
    difference = unit(ours) - unit(theirs) if normalised else ours - theirs
    return average(difference.square().sum(-1) if distance == "square" else length(difference), mask)


def _cam(feature: Tensor, gradient: Tensor, name: str, mask: Tensor | None) -> Tensor:
    """The places that speak for a class, (B, 1, H, W), or (B, T, 1) of tokens."""
    values, slopes = lone(feature, name, (3, 4)), lone(gradient, f"{name}_gradient", (3, 4))
    if values.shape != slopes.shape:
        raise InputError(
            "a gradient does not have its feature's shape",
            given=f"{name} {tuple(feature.shape)}, {name}_gradient {tuple(gradient.shape)}",
            expected="equal shapes",
        )
    if mask is not None:
        check_rows(mask, values.shape[:1])
        values, slopes = blanked(values, mask), blanked(slopes, mask)
    tokens = values.ndim == 3
    channel, places = (2, (1,)) if tokens else (1, (2, 3))
    # The size goes out first: gradients of a sure model are so small that their products would be nothing.
    weights = sized(slopes.mean(places).flatten(1))[0]
    weights = weights.unsqueeze(1) if tokens else weights[:, :, None, None]
    return (weights * values.to(weights.dtype)).sum(channel, keepdim=True).relu()
