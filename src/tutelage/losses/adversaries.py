"""A judge that learns to tell student from teacher, and a student that learns to be taken for the teacher.

Both learn in one step from one loss. What keeps them apart is where gradients may go: the student's score comes from a
judge held fixed, and the judge is trained on scores that lead back to nobody. So a word brings three tensors:

    [the student's score through a judge held fixed, the student's for the judge, the teacher's for the judge]

Shapes:  B batch · C classes. A score s is a logit: D = σ(s) is the judge's probability that the teacher spoke.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.normalised import check_weight
from tutelage.losses.targets import as_float, average, check_mask, dense, pair
from tutelage.types import Logits

__all__ = ["adversarial", "adversarial_feature"]


def adversarial(
    student_logits: Tensor,
    teacher_logits: Logits,
    judged: Sequence[Tensor],
    *,
    logit: float = 1.0,
    balance: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Conditional adversarial distillation: logits that a judge takes for the teacher's; (B, C), (B, C), a list → ().

    Equation:
        mean over rows of a ‖z_s − z_t‖₁ − log D(z_s) + b · (−log D(z_t) − log(1 − D(z_s))); the student learns from the
        first two, with D held fixed, the judge from the rest

    Use:
        Where several answers are right and an average of them is not. Beside `cross_entropy`. Not where a single run
        must be trusted: two players that learn against each other have a high variance, so train several seeds and
        report them all. A judge that wins for good, its part near 0, teaches nothing more: narrow it
        (`companion: {width: 16}`) or lower b. The judge is told labels, unless `companion: {labels: false}`. With one
        random teacher of several at each step (`combine: random_step`) it learns from many as MEAL does.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), or top-k with k = C; no gradient reaches it.
        judged: three tensors of scores (B,), as said above.
        logit: a ≥ 0, the weight of the absolute differences of logits, summed over classes.
        balance: b ≥ 0, the weight of the judge's own loss. An optimizer that rescales gradients, such as adamw, evens
            it out; one such as sgd does not.
        mask: (B,) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example for the players. A judge that cannot tell says ½ of everybody, and its loss is log 4.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> adversarial(student, teacher, [torch.zeros(1)] * 3, logit=0.1)  # 0.43 + log 2 + log 4
        tensor(2.5094)

    Reference:
        Xu, Hsu, Huang 2017, arXiv 1709.00513. Shen, He, Xue 2019 (MEAL), arXiv 1812.02425.
    """
    check_weight("logit", logit)
    student, teacher = pair(student_logits, dense(teacher_logits, "adversarial", mask), mask)
    scores = _scores(judged)
    if scores[0].shape != student.shape[:-1]:
        raise InputError(
            "scores and logits do not belong together",
            given=f"scores {tuple(scores[0].shape)}, logits {tuple(student.shape)}", expected="one score for each row",
        )  # fmt: skip
    total = _players(scores, balance, mask)
    return total + logit * average((student - teacher).abs().sum(-1), mask) if logit else total


def adversarial_feature(
    judged_feature: Sequence[Tensor], *, balance: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Adversarial network compression: features that a judge takes for the teacher's; a list → ().

    Equation:
        mean over rows of −log D(f_s) + b · (−log D(f_t) − log(1 − D(f_s))), f the feature of a layer, averaged over its
        places; the student learns from the first part, with D held fixed, the judge from the rest

    Use:
        Beside `cross_entropy` and a term on logits, as its authors have it, on the last layer before the classes. Where
        widths differ, a linear layer that learns with the student leads to the teacher's. Not where a single run must
        be trusted: as `adversarial` it has a high variance between seeds.

    Args:
        judged_feature: three tensors of scores (B,), as said above.
        balance: b ≥ 0, the weight of the judge's own loss.
        mask: (B,) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example. A judge that cannot tell says ½ of everybody, and its loss is log 4.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> adversarial_feature([torch.zeros(1)] * 3)  # log 2 + log 4
        tensor(2.0794)

    Reference:
        Belagiannis, Farshad, Galasso 2018, arXiv 1803.10750.
    """
    return _players(_scores(judged_feature), balance, mask)


def _scores(judged: object) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors of scores, (B,) each; only the first leads back to the student.

    Raises:
        InputError: they are something else.
    """
    if (
        not isinstance(judged, Sequence)
        or len(judged) != 3
        or any(not isinstance(one, Tensor) or one.ndim != 1 or not one.is_floating_point() for one in judged)
        or len({one.shape for one in judged}) != 1
        or not judged[0].numel()
    ):
        shown = [f"{tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__ for one in judged] if (
            isinstance(judged, Sequence)
        ) else type(judged).__name__  # fmt: skip
        raise InputError(
            "a judge gives three tensors of scores",
            given=str(shown),
            expected="[student's with the judge held fixed, student's, teacher's], each (B,), floating-point",
        )
    student, detached, teacher = (as_float(one) for one in judged)
    return student, detached, teacher


def _players(scores: tuple[Tensor, Tensor, Tensor], balance: float, mask: Tensor | None) -> Tensor:
    """−log D of the student, and the judge's own loss, both in log space."""
    check_weight("balance", balance)
    student, detached, teacher = scores
    if mask is not None:
        check_mask(mask, student.shape)
        student, detached, teacher = (one.where(mask, 0.0) for one in (student, detached, teacher))
    return average(F.softplus(-student) + balance * (F.softplus(-teacher) + F.softplus(detached)), mask)
