"""How examples stand to each other, matched: distances, angles and similarities within the batch.

Nothing is compared number by number, so widths may differ and no connector is needed: only who is near whom is handed
over. The price is that the batch is the lesson: a value depends on all of its examples, none of these losses can be
computed in chunks, and several devices see only their own part. A batch of one example has no relations: the value is
then 0, with a graph.

Shapes:  B batch · D features of an example, all its dimensions in one row.
s_i is the student's row of example i, t_i the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.errors import InputError
from tutelage.losses.targets import average, positive
from tutelage.losses.vectors import length, product, related, sized, unit

__all__ = [
    "correlation_congruence", "probabilistic_transfer", "relational_angle", "relational_distance",
    "similarity_preserving",
]  # fmt: skip

# Numbers held at once while differences of rows are taken: 64 MiB of float32.
_HELD = 2**24
# What the authors of PKT add to a similarity, so that its logarithm exists.
_NO_SIMILARITY = 1e-7


def relational_distance(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Relational distances (RKD-D): how far examples are from each other; (B, …) and (B, …) → ().

    Equation:
        ψ(x)_ij = ‖x_i − x_j‖ / μ(x), μ the mean of the distances that are not 0, of each network its own;
        mean over all B² pairs of Huber(ψ(s)_ij − ψ(t)_ij), δ = 1

    Use:
        On embeddings whose distances mean something, as in retrieval, beside `relational_angle`. Not with a handful of
        examples: the mean is over pairs of one batch. Usual weights are 25 here and 50 for angles, or 1 and 2.

    Args:
        student_feature: (B, …), any shape.
        teacher_feature: (B, …), any other; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to rotation, shift and size; 0 for a single example, and where all
        coincide a distance is 0. Memory grows as B², time as B² D.

    Raises:
        InputError: other numbers of examples, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.tensor([[0.0, 0], [3, 4], [6, 0]])
        >>> relational_distance(student, teacher)
        tensor(0.0175)

    Reference:
        Park, Kim, Lu, Cho 2019, arXiv 1904.05068, the loss L_RKD-D.
    """
    student, teacher = related(student_feature, teacher_feature, mask)
    pairs = _pairs(student, mask)
    ours, theirs = (_relative(torch.cat(_by_vertex(_distances, rows)), pairs) for rows in (student, teacher))
    return average(F.huber_loss(ours, theirs, reduction="none"), pairs)


def relational_angle(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Relational angles (RKD-A): the angle at which two examples are seen from a third; (B, …) and (B, …) → ().

    Equation:
        e_ij = (x_i − x_j) / ‖x_i − x_j‖, a(x)_ijk = e_ij · e_kj; mean over all B³ triples of
        Huber(a(s)_ijk − a(t)_ijk), δ = 1

    Use:
        As `relational_distance`, but for shape instead of size. Not for large batches: time grows as B³ and B² D, twice
        where the batch is so large that steps are computed again on the way back.

    Args:
        student_feature: (B, …), any shape.
        teacher_feature: (B, …), any other; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to rotation, shift and size; 0 for a single example. Examples that
        coincide see each other at no angle: it counts as a right one. Memory does not grow as B³: beyond 64 MiB the
        vertices are taken a few at a time.

    Raises:
        InputError: other numbers of examples, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.tensor([[0.0, 0], [3, 4], [6, 0]])
        >>> relational_angle(student, teacher)
        tensor(0.0205)

    Reference:
        Park, Kim, Lu, Cho 2019, arXiv 1904.05068, the loss L_RKD-A.
    """
    student, teacher = related(student_feature, teacher_feature, mask)
    examples = len(student)
    counts = student.new_ones(examples) if mask is None else mask.to(student.dtype)

    def seen(rows: Tensor, first: int, last: int) -> Tensor:
        with torch.no_grad():
            expected = _angles(teacher, first, last)
        differences = F.huber_loss(_angles(rows, first, last), expected, reduction="none")
        among = (differences * counts).sum(-1)
        return (among * counts).sum(-1) * counts[first:last]

    total = torch.cat(_by_vertex(seen, student, other=teacher.shape[-1])).sum()
    return total / counts.sum().clamp(min=1.0) ** 3


def similarity_preserving(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Similarity preserving (SP): which examples light up together; (B, …) and (B, …) → ().

    Equation:
        G(x)_ij = x_i · x_j, every row divided by its length; (1 / B²) ‖G(s) − G(t)‖_F²

    Use:
        Between layers of any shapes, convolutional maps above all. Not with another batch size at the same weight: rows
        are divided by their length, so the value falls as 1 / B. The usual weight is 3000.

    Args:
        student_feature: (B, …), any shape.
        teacher_feature: (B, …), any other; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to rotation and size. An example of zeros resembles nobody. A single
        one is only like itself, in both: 0.

    Raises:
        InputError: other numbers of examples, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> similarity_preserving(student, teacher)
        tensor(0.1510)

    Reference:
        Tung, Mori 2019, arXiv 1907.09682, equations 2 to 4.
    """
    student, teacher = related(student_feature, teacher_feature, mask)
    ours, theirs = (_similarities(rows) for rows in (student, teacher))
    return average((ours - theirs).square(), _pairs(student, mask))


def _similarities(rows: Tensor) -> Tensor:
    # One factor for the whole batch: squares of very small numbers would pass for nothing.
    level = sized(rows.reshape(1, -1))[0].reshape(rows.shape)
    return unit(product(level, level.mT))


def correlation_congruence(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    gamma: float = 0.4,
    order: int = 2,
    mask: Tensor | None = None,
) -> Tensor:
    """Correlation congruence (CC): a Gaussian kernel between examples, by its Taylor series; (B, …) and (B, …) → ().

    Equation:
        K(x)_ij = Σ for p = 0 … P of e^(−2γ) (2γ)^p / p! (x̂_i · x̂_j)^p, x̂ = x / ‖x‖; mean over all B² pairs of
        (K(s)_ij − K(t)_ij)²

    Use:
        As `similarity_preserving`, where high similarities should weigh more than low ones. Not as the loss of that
        name in many code bases: they multiply neighbours of the batch, and their weight of 0.02 means nothing here.

    Args:
        student_feature: (B, …), any shape.
        teacher_feature: (B, …), any other; no gradient reaches it.
        gamma: γ > 0, without a unit: the narrower the kernel, the larger.
        order: P ≥ 1, where the series ends.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () without a unit. 0 where both agree up to rotation and each example's size. An example of zeros is at right
        angles to all. A single one is only like itself, in both: 0.

    Raises:
        InputError: other numbers of examples, an option out of range, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> correlation_congruence(student, teacher)
        tensor(0.0473)

    Reference:
        Peng and others 2019, arXiv 1904.01802, the correlation of the kernel with P = 2, γ = 0.4.
    """
    positive("gamma", gamma)
    if not isinstance(order, int) or not 1 <= order <= 20:
        raise InputError("order is where the series ends", given=f"order={order}", expected="a whole number, 1 … 20")
    student, teacher = related(student_feature, teacher_feature, mask)
    # In logarithms, as no γ is too large for them.
    share = [math.exp(p * math.log(2.0 * gamma) - 2.0 * gamma - math.lgamma(p + 1)) for p in range(1, order + 1)]
    ours, theirs = _cosines(student), _cosines(teacher)
    difference = sum((part * (ours**p - theirs**p) for p, part in enumerate(share, 1)), torch.zeros_like(ours))
    return average(difference.square(), _pairs(student, mask))


def probabilistic_transfer(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Probabilistic knowledge transfer (PKT): who would be whose neighbour; (B, …) and (B, …) → ().

    Equation:
        P(x)_ij = k_ij / Σ_j k_ij, k_ij = (1 + cos(x_i, x_j)) / 2 + 1e−7; mean over rows i of KL(P(t)_i ‖ P(s)_i)

    Use:
        On embeddings for retrieval, and where layers are too different for anything else. Not with a weight from
        elsewhere: the authors divide by B once more, hence their weight of 30000.

    Args:
        student_feature: (B, …), any shape.
        teacher_feature: (B, …), any other; no gradient reaches it.
        mask: (B,) bool, True where an example counts; the others may hold anything.

    Returns:
        () nats per example. 0 where both agree up to rotation and each example's size. An example counts among its own
        neighbours, as in the authors' code, so a single one is sure of itself in both: 0. One of zeros is at right
        angles to all, itself too.

    Raises:
        InputError: other numbers of examples, or a mask that does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 1], [2, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 2]])
        >>> probabilistic_transfer(student, teacher)
        tensor(0.0451)

    Reference:
        Passalis, Tefas 2018, arXiv 1803.10837, with the cosine kernel.
    """
    student, teacher = related(student_feature, teacher_feature, mask)
    pairs = _pairs(student, mask)
    log_q, log_p = (_neighbours(rows, pairs) for rows in (student, teacher))
    return average(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1), mask)


def _neighbours(rows: Tensor, pairs: Tensor | None) -> Tensor:
    """Log-probabilities of the others, for each row."""
    kernel = (0.5 * (1.0 + _cosines(rows)).clamp(min=0.0) + _NO_SIMILARITY).log()
    if pairs is not None:
        # Not −∞: a row of which nothing counts would become no number.
        kernel = torch.where(pairs, kernel, torch.finfo(kernel.dtype).min)
    return kernel.log_softmax(-1)


def _pairs(rows: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which pairs of rows count, (B, B)."""
    return None if mask is None else mask.unsqueeze(-1) & mask


def _cosines(rows: Tensor) -> Tensor:
    directions = unit(rows)
    return product(directions, directions.mT)


def _by_vertex(function: Callable[[Tensor, int, int], Tensor], rows: Tensor, *, other: int = 0) -> list[Tensor]:
    """Values for some rows at a time beside all, `function(rows, first, last)`: differences take B · B · D numbers.

    Where one time is not enough, each is computed again in the backward pass instead of being held.
    """
    examples = len(rows)
    some = max(1, _HELD // (examples * max(rows.shape[-1], examples, other)))
    if some >= examples:
        return [function(rows, 0, examples)]
    return [
        checkpoint(function, rows, first, min(first + some, examples), use_reentrant=False, preserve_rng_state=False)
        for first in range(0, examples, some)
    ]


def _distances(rows: Tensor, first: int, last: int) -> Tensor:
    """From rows first … last − 1 to all. By differences: by products, rows that coincide would be √ε apart."""
    return length(rows - rows[first:last].unsqueeze(1))


def _angles(rows: Tensor, first: int, last: int) -> Tensor:
    """Cosines between all rows as seen from rows first … last − 1, (vertices, B, B)."""
    directions = unit(rows - rows[first:last].unsqueeze(1))
    return product(directions, directions.mT)


def _relative(distances: Tensor, pairs: Tensor | None) -> Tensor:
    """Distances in units of the mean of those that are not 0."""
    if pairs is not None:
        distances = torch.where(pairs, distances, 0.0)
    some = (distances > 0).sum()
    return distances / torch.where(some > 0, distances.sum() / some.clamp(min=1), 1.0)
