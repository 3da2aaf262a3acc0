"""A student that teaches itself: by what it said before, of another example, deep in itself, or in several branches.

Whoever teaches is a constant: it is the same student, and a gradient through its teaching side would pull what it knows
better towards what it knows less.

Shapes:  B batch · C classes · n exits or branches · "…" any leading dimensions, each row one example.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.curricula import check_progress
from tutelage.losses.divergences import soft_target
from tutelage.losses.logits import cross_entropy
from tutelage.losses.normalised import at_label, check_weight, looked_up
from tutelage.losses.targets import as_float, average, blank, check_logits, check_mask, pair, positive
from tutelage.losses.vectors import lone

__all__ = ["class_consistency", "native_ensemble", "own_exits", "progressive"]


def progressive(
    student_logits: Tensor,
    past_probabilities: Tensor,
    labels: Tensor,
    progress: float,
    *,
    final: float = 0.8,
    mask: Tensor | None = None,
) -> Tensor:
    """Progressive self-distillation (PS-KD): labels mixed with what it said last time; (…, C), (…, C), (…) → ().

    Equation:
        mean over rows of −Σ_c t_c log q_c,  t = (1 − α) e_y + α p,  α = final · progress, q = softmax(z_s), p its
        probabilities when it last saw the example; where it never did, t = e_y

    Use:
        In the place of `cross_entropy`, without any teacher. What is remembered is one row for each training example:
        what the student said to the view that it was shown last. The authors judge plain examples at the end of every
        epoch instead, which costs a pass more. Not for mixed examples, which have no label.

    Args:
        student_logits: (…, C).
        past_probabilities: (…, C), NaN in the rows of examples that it has never seen; no gradient reaches it.
        labels: (…) int64 in 0 … C − 1.
        progress: 0 at the first step of training, 1 at the end.
        final: in [0, 1], the share of the past at the end.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example; a cross-entropy, so its least value is the entropy of t. No T².

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a label that is not a class.

    Example:
        >>> import torch
        >>> student, past = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[0.7, 0.1, 0.1, 0.1]])
        >>> progressive(student, past, torch.tensor([0]), 0.5)
        tensor(1.5660)

    Reference:
        Kim, Ji, Yoon, Hwang 2021, arXiv 2006.12000.
    """
    check_progress(progress)
    if not 0.0 <= final <= 1.0:
        raise InputError("final is a share", given=f"final={final}", expected="a number in [0, 1]")
    student, past = pair(student_logits, past_probabilities, mask)
    at = at_label(labels, student, mask)
    log_q = student.log_softmax(-1)
    unseen = past.isnan().any(-1)
    share = (final * progress) * (~unseen).to(log_q.dtype)
    with looked_up(labels, student):
        label = -log_q.gather(-1, at).squeeze(-1)
    before = -(torch.where(unseen.unsqueeze(-1), 0.0, past) * log_q).sum(-1)
    return average((1.0 - share) * label + share * before, mask)


def class_consistency(
    student_logits: Tensor, partner_logits: Tensor, *, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Class-wise self-distillation (CS-KD): two examples of a class are answered alike; (…, C) and (…, C) → ().

    Equation:
        T² · mean over rows of KL(softmax(z' / T) ‖ softmax(z_s / T)), z' the student's own logits on another example of
        the same class

    Use:
        Beside `cross_entropy`, without any teacher, where classes are hard to tell apart and examples few. The authors
        have weight 1 with many classes, 3 on fine-grained ones. Every example brings a partner, so a step costs one
        more forward pass. Not for mixed examples, nor for several labels at once: they have no class in common.

    Args:
        student_logits: (…, C).
        partner_logits: (…, C) of the partners; no gradient reaches them.
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both are answered alike.

    Raises:
        InputError: shapes that do not belong together, or a temperature that is not above 0.

    Example:
        >>> import torch
        >>> class_consistency(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]]))
        tensor(0.9056)

    Reference:
        Yun, Park, Lee, Shin 2020, arXiv 2003.13964.
    """
    return soft_target(student_logits, partner_logits, temperature=temperature, mask=mask)


def own_exits(
    student_logits: Tensor,
    exits: Sequence[Tensor],
    student_features: Sequence[Tensor],
    target: Tensor,
    *,
    labels: float = 0.7,
    teaching: float = 0.3,
    features: float = 0.03,
    temperature: float = 3.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Be your own teacher (BYOT): exits on earlier layers learn from the last one; (B, C), lists, (B) → ().

    Equation:
        Σ_i a · CE(y, z_i) + b T² · KL(softmax(z_s / T) ‖ softmax(z_i / T)) + c · mean of (F_i − F)², z_i the logits and
        F_i the feature of exit i, F what the last of the layers puts out; z_s and F are constants

    Use:
        Beside `cross_entropy` of weight 1, which is for the last layer and not part of this, without any teacher. Name
        two or more layers, the deepest last: each but the last gets an exit, a small net that learns along and is never
        exported, so the student is as large and as fast as before. Not for nets of one stage.

    Args:
        student_logits: (B, C), from which exits learn; no gradient reaches them.
        exits: 2 n tensors, the logits (B, C) of n exits, then their features, each of the shape of the deepest.
        student_features: n + 1 tensors, what the layers put out; the last, the deepest one, is read, as a constant.
        target: labels (B,) int64, or probabilities (B, C).
        labels: a ≥ 0.
        teaching: b ≥ 0.
        features: c ≥ 0; the square is averaged over all numbers of a feature.
        temperature: T > 0, no unit.
        mask: (B,) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example for the first two parts, summed over exits. No least value of its own but 0.

    Raises:
        InputError: shapes or lists that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> deep, exit = torch.tensor([[3.0, 1.0, 0.2, -1.0]]), torch.tensor([[1.0, 2.0, 0.5, 0.0]])
        >>> last, early = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
        >>> own_exits(deep, [exit, early], [torch.zeros(1, 3), last], torch.tensor([0]))
        tensor(1.4233)

    Reference:
        Zhang and others 2019, arXiv 1905.08094.
    """
    for name, weight in (("labels", labels), ("teaching", teaching), ("features", features)):
        check_weight(name, weight)
    positive("temperature", temperature)
    _check_exits(exits, student_features)
    count = len(exits) // 2
    deep = lone(student_features[-1], "the deepest feature").detach()
    total = as_float(student_logits.detach()).new_zeros(())
    for logits, feature in zip(exits[:count], exits[count:], strict=True):
        ours = lone(feature, "the feature of an exit")
        if ours.shape != deep.shape:
            raise InputError(
                "the feature of an exit does not have the shape of the deepest one",
                given=f"{tuple(ours.shape)} beside {tuple(deep.shape)}", expected="equal shapes",
            )  # fmt: skip
        rows = [one.flatten(1) if mask is None else blank(one.flatten(1), mask) for one in (ours, deep.to(ours.dtype))]
        total = total + labels * cross_entropy(logits, target, mask=mask)
        total = total + teaching * soft_target(logits, student_logits.detach(), temperature=temperature, mask=mask)
        total = total + features * average((rows[0] - rows[1]).square().mean(-1), mask)
    return total


def _check_exits(exits: object, layers: object) -> None:
    counts = [len(one) if isinstance(one, Sequence) else type(one).__name__ for one in (exits, layers)]
    if not isinstance(counts[0], int) or not counts[0] or counts[0] % 2 or counts[1] != counts[0] // 2 + 1:
        raise InputError(
            "exits and layers do not belong together",
            given=f"{counts[0]} tensors of exits, {counts[1]} layers",
            expected="logits and features of n ≥ 1 exits, and one layer more than exits",
        )


def native_ensemble(
    student_logits: Tensor,
    branches: Sequence[Tensor],
    target: Tensor,
    *,
    temperature: float = 3.0,
    mask: Tensor | None = None,
) -> Tensor:
    """On-the-fly native ensemble (ONE): branches learn from their own gated sum; (B, C), a list, (B) → ().

    Equation:
        Σ_i CE(y, z_i) + CE(y, z_e) + T² Σ_i KL(softmax(z_e / T) ‖ softmax(z_i / T)),  z_e = Σ_i g_i z_i, the student
        itself the first of n branches, Σ_i g_i = 1; z_e is a constant in the last part

    Use:
        In the place of `cross_entropy`, without any teacher. The other branches are further copies of the student's
        layers behind the place that the term names, from other first weights; they share what is before it, learn
        along, and are never exported. Not for a place near the input: every branch costs what is behind it.

    Args:
        student_logits: (B, C), the branch that ships.
        branches: the logits (B, C) of the n − 1 others, then the gate g (B, n), whose rows add up to 1, the student's
            own share first.
        target: labels (B,) int64, or probabilities (B, C).
        temperature: T > 0, no unit.
        mask: (B,) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, a sum over n + 1 cross-entropies and n divergences times T².

    Raises:
        InputError: shapes or lists that do not belong together, or a temperature that is not above 0.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> native_ensemble(one, [other, torch.tensor([[0.5, 0.5]])], torch.tensor([0]))
        tensor(2.8262)

    Reference:
        Lan, Zhu, Gong 2018, arXiv 1806.04606.
    """
    positive("temperature", temperature)
    if not isinstance(branches, Sequence) or len(branches) < 2:
        raise InputError(
            "an ensemble of one has nobody to learn from",
            given=f"{len(branches)} tensors" if isinstance(branches, Sequence) else type(branches).__name__,
            expected="a list of the logits of one more branch or several, and the gate",
        )
    whole = [student_logits, *branches[:-1]]
    gate = branches[-1]
    for one in whole:
        check_logits(one, "the logits of a branch")
    shape = (*student_logits.shape[:-1], len(whole))
    if any(one.shape != student_logits.shape for one in whole) or tuple(gate.shape) != shape:
        raise InputError(
            "branches and their gate do not belong together",
            given=f"logits {', '.join(str(tuple(one.shape)) for one in whole)}, gate {tuple(gate.shape)}",
            expected=f"logits of one shape, and a gate {shape}",
        )
    stack, shares = torch.stack([as_float(one) for one in whole], -1), as_float(gate)
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])
        stack, shares = torch.where(mask[..., None, None], stack, 0.0), blank(shares, mask)
    together = (stack * shares.unsqueeze(-2)).sum(-1)
    total = cross_entropy(together, target, mask=mask)
    for one in stack.unbind(-1):
        total = total + cross_entropy(one, target, mask=mask)
        total = total + soft_target(one, together.detach(), temperature=temperature, mask=mask)
    return total
