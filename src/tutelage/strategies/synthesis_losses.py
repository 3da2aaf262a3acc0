"""What made-up inputs are judged by: whether a teacher is sure of them, knows them, and a student does not yet.

These are for learning inputs, or what makes inputs, not students: gradients pass through the teacher's answer, which no
loss of `tutelage.losses` lets happen. Every value is to be made small.

Shapes:  B batch · C classes · D features or channels · H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.errors import InputError, ModelError
from tutelage.losses.divergences import divergence
from tutelage.losses.targets import as_float, check_logits, positive
from tutelage.losses.vectors import check_choice, unit

__all__ = [
    "DISAGREEMENTS", "LayerInput", "LayerInputs", "Normed", "activation", "batch_statistics", "contrast",
    "disagreement", "imbalance", "length", "sureness", "variation",
]  # fmt: skip

DISAGREEMENTS = ("kl", "l1", "js")


def sureness(logits: Tensor) -> Tensor:
    """One-hot loss: the cross-entropy of each answer with its own first choice; (B, C) → ().

    Equation:
        mean over examples of −log p_k, k = argmax p

    Returns:
        () nats, 0 where the teacher is sure, log C where it knows nothing.

    Raises:
        InputError: these are no logits.

    Reference:
        Chen and others 2019 (DAFL), arXiv 1904.01186.
    """
    check_logits(logits, "logits")
    logits = as_float(logits)
    return F.cross_entropy(logits, logits.argmax(-1))


def imbalance(logits: Tensor) -> Tensor:
    """Information-entropy loss: how far the classes of a batch are from even; (B, C) → ().

    Equation:
        Σ_c p̄_c log p̄_c, p̄ = mean over examples of softmax(logits)

    Returns:
        () nats, from −log C where all classes come alike to 0 where one comes alone.

    Raises:
        InputError: these are no logits.

    Reference:
        Chen and others 2019 (DAFL), arXiv 1904.01186.
    """
    check_logits(logits, "logits")
    mean = as_float(logits).softmax(-1).mean(0)
    value: Tensor = torch.special.xlogy(mean, mean).sum()
    return value


def activation(feature: Tensor) -> Tensor:
    """Real inputs excite a net more than noise does: minus the mean size of a feature's numbers; (B, …) → ().

    A mean over features too, so that a weight does not depend on the width of the layer.

    Reference:
        Chen and others 2019 (DAFL), arXiv 1904.01186.
    """
    return -as_float(feature).abs().mean()


def disagreement(student_logits: Tensor, teacher_logits: Tensor, kind: str = "js") -> Tensor:
    """Minus how far student and teacher are apart, so that inputs are sought where they are; (B, C), (B, C) → ().

    Equation:
        "kl": −mean over examples of KL(p ‖ q), p the teacher's (zero-shot transfer); "l1": −mean over examples and
        classes of |z − z'| (data-free adversarial distillation); "js": −mean of the Jensen–Shannon divergence (adaptive
        DeepInversion)

    Returns:
        () nats, or logits for "l1"; 0 where both agree, and never below −log 2 for "js".

    Raises:
        InputError: these are no logits, differ in shape, or no such kind.

    Reference:
        Micaelli, Storkey 2019, arXiv 1905.09768; Fang and others 2019, arXiv 1912.11006; Yin and others 2020, arXiv
        1912.08795.
    """
    check_choice("kind", kind, DISAGREEMENTS)
    check_logits(student_logits, "student_logits")
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            "student and teacher answer in different shapes",
            given=f"student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}",
        )
    ours, theirs = as_float(student_logits), as_float(teacher_logits)
    if kind == "l1":
        return -(ours - theirs).abs().mean()
    log_q, log_p = ours.log_softmax(-1), theirs.log_softmax(-1)
    if kind == "kl":
        return -divergence(log_p, log_q).mean()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return -0.5 * (divergence(log_p, log_m) + divergence(log_q, log_m)).mean()


def contrast(first: Tensor, second: Tensor, bank: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Every input should be told apart from all others made so far: two views of it find each other; (B, D), … → ().

    Equation:
        mean over examples i of −log( exp(cos(a_i, b_i) / T) / Σ_j exp(cos(a_i, b_j) / T) ), where j runs over the other
        views of this batch and the bank

    Args:
        first: (B, D) features of one view of each input.
        second: (B, D) of another view of the same inputs, in the same order.
        bank: (M, D) of inputs made before; M may be 0.
        temperature: T > 0.

    Returns:
        () nats; log(B + M) where all features are alike.

    Raises:
        InputError: features that do not belong together, or a temperature that is not above 0.

    Reference:
        Fang and others 2021 (CMI), arXiv 2105.08584.
    """
    positive("temperature", temperature)
    if first.ndim != 2 or first.shape != second.shape or bank.ndim != 2 or bank.shape[1] != first.shape[1]:
        raise InputError(
            "these features do not belong together",
            given=f"{tuple(first.shape)}, {tuple(second.shape)}, bank {tuple(bank.shape)}",
            expected="(B, D), (B, D) and (M, D)",
        )
    others = torch.cat([unit(second), unit(bank)])
    own = torch.arange(len(first), device=first.device)
    return F.cross_entropy(unit(first) @ others.T / temperature, own)


def variation(x: Tensor) -> Tensor:
    """Total variation: the mean difference of neighbouring pixels, below and to the right; (B, C, H, W) → ().

    A mean over the pairs of each direction, added up, so that a weight does not depend on the size of a picture.

    Raises:
        InputError: these are no pictures.

    Reference:
        Mahendran, Vedaldi 2015, arXiv 1412.0035; as a prior of DeepInversion: Yin and others 2020, arXiv 1912.08795.
    """
    if x.ndim != 4 or min(x.shape[2:]) < 2:
        raise InputError(
            "total variation is a property of pictures", given=f"shape {tuple(x.shape)}",
            expected="(B, C, H, W) with H, W ≥ 2",
        )  # fmt: skip
    return (x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def length(x: Tensor) -> Tensor:
    """How large the inputs are: the mean of their squares; (B, …) → ()."""
    return x.square().mean()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Normed:
    """What came into a batch norm: mean and variance of this batch, beside those of the data that it was trained on."""

    mean: Tensor  # (D,)
    variance: Tensor  # (D,)
    known_mean: Tensor  # (D,)
    known_variance: Tensor  # (D,)


def batch_statistics(norms: Sequence[Normed]) -> Tensor:
    """How unlike the training data a batch looks to the teacher's batch norms.

    Equation:
        Σ over batch norms of ‖μ − μ̂‖² + ‖σ² − σ̂²‖², mean and variance of the batch over examples and places

    Args:
        norms: as `LayerInputs.norms` tells them, at least one.

    Returns:
        () in the units of the features; 0 where all statistics agree.

    Raises:
        InputError: there are none.

    Reference:
        Yin and others 2020 (DeepInversion), arXiv 1912.08795; their code leaves the lengths unsquared.
    """
    if not norms:
        raise InputError("there are no batch norms to agree with", fix="use a weight of 0 for their statistics")
    parts = [
        (one.mean - one.known_mean).square().sum() + (one.variance - one.known_variance).square().sum() for one in norms
    ]
    return torch.stack(parts).sum()


@final
@dataclass(frozen=True, slots=True)
class LayerInput:
    """What came into a layer in the last pass."""

    layer: nn.Module
    value: Tensor


@final
class LayerInputs:
    """Keeps what comes into a teacher's batch norms and its last linear layer, with the graph; a context manager.

    Args:
        model: to listen to. Batch norms without statistics of their own are passed over.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = list(model.modules())
        self._norms = [part for part in layers if isinstance(part, _BatchNorm) and part.running_mean is not None]
        linear = [part for part in layers if isinstance(part, nn.Linear)]
        self._head = linear[-1] if linear else None
        self._kept: list[LayerInput] = []
        wanted = [*self._norms, *([self._head] if self._head is not None else [])]
        self._handles = [part.register_forward_pre_hook(self._keep) for part in wanted]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._kept = []

    @property
    def has_norms(self) -> bool:
        """Whether there are statistics to agree with."""
        return bool(self._norms)

    def forget(self) -> None:
        """Let go of what the passes so far have left; before every pass that is to be read."""
        self._kept = []

    def norms(self) -> list[Normed]:
        """What came into the batch norms since `forget`, in the order in which they ran."""
        return [_normed(kept.layer, kept.value) for kept in self._kept if isinstance(kept.layer, _BatchNorm)]

    def feature(self) -> Tensor:
        """What came into the last linear layer since `forget`, (B, D).

        Raises:
            ModelError: the model has no such layer, or it did not run.
        """
        found = [kept.value for kept in self._kept if kept.layer is self._head]
        if not found:
            raise ModelError(
                "the teacher has no linear layer at its end, whose inputs would be its feature",
                fix="use a weight of 0 for the activation",
            )
        return found[-1]

    def _keep(self, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            # A layer that works in place on its input comes after this one has read it; a copy is safe from that.
            self._kept.append(LayerInput(layer, inputs[0].clone()))


def _normed(layer: _BatchNorm, value: Tensor) -> Normed:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    over = [axis for axis in range(value.ndim) if axis != 1]
    # Over all places the difference between both estimates of a variance is nothing; of one example it would be NaN.
    return Normed(value.mean(over), value.var(over, correction=0), layer.running_mean, layer.running_var)
