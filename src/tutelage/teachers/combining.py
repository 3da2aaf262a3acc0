"""How the answers of several teachers become one: means, and the weights of members on each example.

Everything is computed in log space and in the precision of the answers, so that a class of no probability stays finite
or minus infinity and never becomes a NaN. No matrix product is taken, which autocast would do in half precision.

Shapes:  M members · B batch · C classes.
p_k = softmax(z_k / T) is what member k says, w_k its weight; weights add up to 1 on every example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError, nearest
from tutelage.losses.normalised import at_label, looked_up
from tutelage.losses.targets import positive

__all__ = [
    "BY_TASK",
    "COMBINATIONS",
    "TAKES",
    "by_confidence",
    "by_entropy",
    "check_options",
    "mean_logits",
    "mean_probabilities",
    "shares_of",
]

# Not a way to answer one question together: each member answers a task of its own, and their logits stand side by side.
BY_TASK = "tasks"
COMBINATIONS: Mapping[str, str] = {
    "mean_probabilities": "the mean of the members' probabilities, at one temperature",
    "mean_logits": "the mean of the members' logits",
    "entropy": "the mean of probabilities; members that hesitate about an example count less on it",
    "confidence": "the mean of probabilities; members that are wrong about an example's label count less on it",
    "random_example": "one member for each example, drawn anew with every view",
    "random_step": "one member for each batch",
}
TAKES: Mapping[str, frozenset[str]] = {
    "mean_probabilities": frozenset({"weights", "temperature"}),
    "mean_logits": frozenset({"weights"}),
    "entropy": frozenset({"temperature"}),
    "confidence": frozenset({"temperature"}),
    "random_example": frozenset({"weights", "seed"}),
    "random_step": frozenset({"weights", "seed"}),
    BY_TASK: frozenset(),
}


def mean_probabilities(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """The mean of the members' distributions, as logits to be read at a temperature; (M, B, C) → (B, C).

    z = T · log Σ_k w_k p_k, so that softmax(z / T) is the mean exactly. To this comes the members' mean level
    T · Σ_k w_k logsumexp(z_k / T), which no softmax sees: members that agree are answered with their own logits. Read
    at another temperature it is not the mean there. As T grows, z nears the mean of logits.

    Args:
        logits: (M, B, C).
        weights: (M,), or (M, B) where each example has its own; they add up to 1 over the members.
        temperature: T > 0, no unit.
    """
    scaled = logits / temperature
    level = scaled.logsumexp(-1, keepdim=True)
    shares = _beside(weights, logits)
    return temperature * ((scaled - level + shares.log()).logsumexp(0) + (shares * level).sum(0))


def mean_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k z_k, which at every temperature is the normalised geometric mean of probabilities; (M, B, C) → (B, C).

    Args:
        logits: (M, B, C).
        weights: (M,), or (M, B) where each example has its own.
    """
    return (_beside(weights, logits) * logits).sum(0)


def by_entropy(logits: Tensor) -> Tensor:
    """w_k = (1 − H_k / Σ_j H_j) / (M − 1), H_k the entropy of member k at temperature 1; (M, B, C) → (M, B).

    Members that hesitate count less. Equal where nobody hesitates at all.
    """
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
    total = entropy.sum(0, keepdim=True)
    hesitation = torch.where(total > 0, entropy / torch.where(total > 0, total, 1.0), 1.0 / len(logits))
    return _the_rest(hesitation)


def by_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """w_k = (1 − softmax_k(CE_k)) / (M − 1), CE_k = −log p_k of the label at temperature 1; (M, B, C), (B,) → (M, B).

    Members that are wrong about the label count less, none more than 1 / (M − 1).

    Raises:
        InputError: labels that are no class numbers, or not one for each example.
    """
    at = at_label(labels, logits[0], None)
    with looked_up(at, logits):
        loss = -logits.log_softmax(-1).gather(-1, at.expand(len(logits), -1, -1)).squeeze(-1)
    # A class that a member rules out altogether has an infinite loss, and two of these no softmax.
    return _the_rest(loss.clamp(max=1e30).softmax(0))


def _the_rest(shares: Tensor) -> Tensor:
    """(1 − share) / (M − 1): weights that fall with a share and add up to 1 again; a member alone has weight 1."""
    return (1.0 - shares) / (len(shares) - 1) if len(shares) > 1 else torch.ones_like(shares)


def _beside(weights: Tensor, logits: Tensor) -> Tensor:
    """Weights with as many dimensions as logits."""
    return weights.to(logits).reshape(*weights.shape, *[1] * (logits.ndim - weights.ndim))


def check_options(how: str, options: Mapping[str, object]) -> None:
    """Require a known form, and of weights, temperature and seed only what it takes, None standing for the default.

    Raises:
        InputError: another form, an option that means nothing for it, or a temperature out of range.
    """
    if how not in TAKES:
        raise InputError(f"no combination `{how}` of teachers", fix=nearest(str(how), TAKES))
    for name, value in options.items():
        if value is not None and name not in TAKES[how]:
            others = ", ".join(form for form, takes in TAKES.items() if name in takes)
            raise InputError(
                f"the combination `{how}` has no {name}", given=f"{name}={value}", fix=f"leave it out; {others} have"
            )
    temperature = options["temperature"]
    if temperature is not None:
        if not isinstance(temperature, (int, float)):
            raise InputError("temperature is a number", given=temperature, expected="one that does not move")
        positive("temperature", temperature)


def shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """One weight for each member, adding up to 1; equal ones for None.

    Raises:
        InputError: not one finite weight ≥ 0 for each, or all are 0.
    """
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    total = math.fsum(given)
    if len(given) != count or not all(0.0 <= weight < math.inf for weight in given) or not 0.0 < total < math.inf:
        raise InputError(
            "the weights do not fit the teachers",
            given=f"{given} for {count} teachers",
            expected="one finite number for each, none below 0, not all 0",
        )
    return [weight / total for weight in given]
