"""What only the members of an ensemble can tell, one by one: where they agree, and how far they are apart.

A mean of teachers is one teacher and is learned by any loss. These two read every member: one gives each the weight at
which the student learns what all of them want; the other teaches the student the members' spread beside their mean.

Shapes:  M members · B batch · C classes · "…" any leading dimensions, each row one example.
p_k = softmax(z_k / T) is member k of the teacher, q = softmax(z_s / T) the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import divergence
from tutelage.losses.targets import as_float, average, blank, check_logits, positive
from tutelage.losses.vectors import product

__all__ = ["adaptive_ensemble", "ensemble_distribution", "least_norm_weights"]

# Stirling's series is exact to float64 from here on; below, the logarithm of the gamma function is small itself.
_SERIES_FROM = math.log(16.0)
# The precision of a Dirichlet distribution grows no further than this power of e: far beyond what is learned.
_MOST_CERTAIN = 30.0


def adaptive_ensemble(
    student_logits: Tensor,
    teacher_members: Tensor,
    *,
    most: float = 1.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Adaptive ensemble in gradient space (AEKD): weights by which all agree; (…, C) and (M, …, C) → ().

    Equation:
        Σ_k a_k L_k,  L_k = T² · mean over rows of KL(p_k ‖ q),  a = argmin ‖Σ_k a_k ∂L_k/∂z_s‖² over a_k ≥ 0 with
        Σ_k a_k = 1 and a_k ≤ most; a is held fixed, one set for the batch

    Use:
        Where members contradict each other and a mean would follow the loudest: with most = 1 a small step of z_s
        against this gradient lowers the loss of every member, and where none can be lowered without raising another
        the gradient is 0. Not where one member is simply better: what the worst one wants counts as much. Not in
        chunks, since the weights are of the whole batch. The M × M table of products is read by the processor at every
        step, for which a graphics card waits.

    Args:
        student_logits: (…, C).
        teacher_members: (M, …, C) logits of each member; no gradient reaches them.
        most: the greatest weight of a member, 1 / M … 1; 1 / M is the plain mean of the losses. The authors bound it by
            1 / (ν M).
        temperature: T > 0, no unit.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where all agree. At most the largest `soft_target` of a member.

    Raises:
        InputError: shapes that do not belong together, or an option out of range.

    Example:
        >>> import torch
        >>> members = torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]]]).log()
        >>> adaptive_ensemble(torch.tensor([[0.0, 0.0]]), members, temperature=1.0)
        tensor(0.0897)

    Reference:
        Du and others 2020, Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space, NeurIPS 2020.
    """
    positive("temperature", temperature)
    student, members = _checked(student_logits, teacher_members, mask)
    _check_most(most, len(members))
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, members))
    losses = torch.stack([average(divergence(one, log_q), mask) for one in log_p])
    # The gradient of L_k, but for factors that all members share. Rows that do not count are the same in both.
    slopes = (log_q.detach().exp() - log_p.exp()).flatten(1)
    return (least_norm_weights(slopes, most=most) * losses).sum() * temperature**2


def ensemble_distribution(
    student_logits: Tensor,
    teacher_members: Tensor,
    *,
    smoothing: float = 1e-4,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Ensemble distribution distillation (EnDD): the members' spread, too; (…, C) and (M, …, C) → ().

    Equation:
        −mean over rows and members of log Dir(π_k; α),  α = exp(z_s / T),  π_k = (1 − ε) p_k + ε / C

    Use:
        Where one student should tell what it does not know from what cannot be known. At T = 1 its probabilities are
        softmax(z_s), the mean of its Dirichlet distribution, so it is used as any other; how sure it is of them is Σ α,
        of which logsumexp(z_s) is the logarithm. Not as a measure of agreement, nor with many classes: it is a density,
        which may be negative, and has no bound where the members are equal. Begin at T = 10 and let it fall to 1.

    Args:
        student_logits: (…, C).
        teacher_members: (M, …, C) logits of each member, M ≥ 2; no gradient reaches them.
        smoothing: ε in [0, 1), what keeps a member's least probabilities off 0.
        temperature: T > 0, no unit, of both.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example: a negative log-density, of either sign, not 0 at a match. No T². Σ α is held below e³⁰.

    Raises:
        InputError: shapes that do not belong together, fewer than two members, or an option out of range.

    Example:
        >>> import torch
        >>> members = torch.tensor([[[0.5, 0.3, 0.2]], [[0.6, 0.2, 0.2]]]).log()
        >>> ensemble_distribution(torch.tensor([[2.0, 1.0, 1.0]]), members)
        tensor(-2.3010)

    Reference:
        Malinin, Mlodozeniec, Gales 2020, arXiv 1905.00076, section 3; smoothing towards all classes alike is ours.
    """
    positive("temperature", temperature)
    if not 0.0 <= smoothing < 1.0:
        raise InputError("smoothing is a share", given=f"smoothing={smoothing}", expected="0 ≤ smoothing < 1")
    student, members = _checked(student_logits, teacher_members, mask)
    if len(members) < 2:
        raise InputError("one member has no spread", given=f"teacher_members {tuple(members.shape)}", expected="M ≥ 2")
    log_pi = (members / temperature).log_softmax(-1)
    if smoothing:
        even = torch.full_like(log_pi, math.log(smoothing / log_pi.shape[-1]))
        log_pi = torch.logaddexp(log_pi + math.log1p(-smoothing), even)
    return average(-_log_dirichlet(student / temperature, log_pi).mean(0), mask)


def least_norm_weights(vectors: Tensor, *, most: float = 1.0) -> Tensor:
    """The weights of the shortest vector that a weighted mean can give; (M, D) → (M,).

    Exact, by the active-set method on the M × M table of products, in float64. Where several sets of weights give the
    same vector, even ones, to some digits.

    Args:
        vectors: (M, D) of any unit.
        most: the greatest weight, 1 / M … 1.

    Raises:
        InputError: most is out of range.

    Example:
        >>> import torch
        >>> least_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([0.8000, 0.2000])
    """
    _check_most(most, len(vectors))
    # The longest is made 1 long first: squares of small gradients would leave single precision.
    vectors = vectors.detach()
    longest = torch.linalg.vector_norm(vectors, dim=-1).amax()
    sized = vectors / torch.where(longest > 0, longest, 1.0)
    return _active_set(product(sized, sized.mT).cpu().double(), most).to(vectors)


def _active_set(table: Tensor, most: float) -> Tensor:
    """argmin aᵀ G a over 0 ≤ a ≤ most, Σ a = 1, for a table G (M, M) of products; where it is lost, even weights."""
    count = len(table)
    weights = torch.full((count,), 1.0 / count, dtype=table.dtype)
    if most * count <= 1.0 + 1e-9 or not bool(table.isfinite().all()):
        return weights  # nothing to choose; or no numbers, of which no weights make any
    # A ridge far below what is seen: equal vectors share their weight, and every least value has one place.
    table = table + 1e-11 * torch.eye(count, dtype=table.dtype)
    free = torch.ones(count, dtype=torch.bool)
    # Every set of bounds that is left is left for a smaller value, so none comes twice; the limit is for rounding.
    for _ in range(32 * count):
        moved = torch.zeros_like(weights)
        moved[free] = _least_among(table, weights, free) - weights[free]
        moved[moved.abs() < 1e-12] = 0.0  # or rounding would seem to press weights against their bounds
        room = torch.where(moved < 0, weights, most - weights) / moved.abs()
        step, first = room.masked_fill(moved == 0, math.inf).min(0)
        if float(step) < 1.0:
            weights = weights + step * moved
            weights[first] = 0.0 if moved[first] < 0 else most
            free[first] = False
            continue
        weights = weights + moved
        pulls = table @ weights
        # Optimal where no weight at 0 pulls the value up less than the free ones do, and none at its most pulls more.
        excess = pulls - pulls[free].mean()
        gain = torch.where(weights < most / 2, -excess, excess).masked_fill(free, 0.0)
        if float(gain.max()) <= 1e-13:
            break
        free[gain.argmax()] = True
    return weights


def _least_among(table: Tensor, weights: Tensor, free: Tensor) -> Tensor:
    """The free weights at the least value, the others held, whatever their bounds."""
    size = int(free.sum())
    system = torch.ones(size + 1, size + 1, dtype=table.dtype)
    system[:size, :size] = table[free][:, free]
    system[size, size] = 0.0
    held = weights.masked_fill(free, 0.0)
    right = torch.cat([-(table @ held)[free], (1.0 - held.sum()).reshape(1)])
    # By singular values: where vectors are many and dimensions few, elimination may meet a zero in spite of the ridge.
    solution: Tensor = torch.linalg.lstsq(system, right.unsqueeze(-1), driver="gelsd").solution
    return solution[:size, 0]


def _log_dirichlet(logits: Tensor, log_pi: Tensor) -> Tensor:
    """log Dir(π; exp(logits)) of every member's row; (…, C) and (M, …, C) → (M, …).

    With m = softmax(logits), A = Σ exp(logits) and Stirling's leading part taken out of every gamma function,
    −A · KL(m ‖ π) − Σ_c log π_c + r(A) − Σ_c r(α_c): differences of gamma functions would be of much larger numbers.
    """
    whole = logits.logsumexp(-1, keepdim=True)
    excess = (whole - _MOST_CERTAIN).clamp(min=0.0)
    logits, whole = logits - excess, whole - excess
    log_m = logits.log_softmax(-1).expand_as(log_pi)
    certain = whole.squeeze(-1).exp() * divergence(log_m, log_pi)
    return _remainder(whole.squeeze(-1)) - _remainder(logits).sum(-1) - certain - log_pi.sum(-1)


def _remainder(log_a: Tensor) -> Tensor:
    """r(a) = log Γ(a) − (a log a − a), from log a."""
    low, high = log_a.clamp(max=_SERIES_FROM), log_a.clamp(min=_SERIES_FROM)
    a, u = low.exp(), (-high).exp()
    small = torch.lgamma(1.0 + a) - low - a * low + a
    large = 0.5 * (math.log(2.0 * math.pi) - high) + u / 12.0 - u**3 / 360.0 + u**5 / 1260.0 - u**7 / 1680.0
    return torch.where(log_a < _SERIES_FROM, small, large)


def _checked(student_logits: Tensor, teacher_members: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both in single precision or better, the members without a graph, rows that do not count zero in both."""
    check_logits(student_logits, "student_logits")
    if (
        not isinstance(teacher_members, Tensor)
        or not teacher_members.is_floating_point()
        or teacher_members.shape[1:] != student_logits.shape
        or not len(teacher_members)
    ):
        shown = teacher_members.shape if isinstance(teacher_members, Tensor) else type(teacher_members).__name__
        raise InputError(
            "student logits and those of the members do not belong together",
            given=f"student {tuple(student_logits.shape)}, members "
            + (f"{tuple(shown)} {teacher_members.dtype}" if isinstance(shown, torch.Size) else shown),
            expected=f"floating-point numbers of shape (M, {', '.join(map(str, student_logits.shape))}), M ≥ 1",
        )
    student, members = as_float(student_logits), as_float(teacher_members.detach())
    if mask is None:
        return student, members
    return blank(student, mask), blank(members, mask.expand(members.shape[:-1]))


def _check_most(most: float, count: int) -> None:
    if not 1.0 / count - 1e-9 <= most <= 1.0:
        raise InputError(
            "most is the greatest weight of a member", given=f"most={most}", expected=f"{1.0 / count:.4g} … 1"
        )
