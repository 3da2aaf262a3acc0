"""What `agreement.py` compares: random inputs, the losses of tutelage on them, and somebody else's loss beside one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage import losses


@dataclass(frozen=True)
class Inputs:
    """One draw: what a student and a teacher put out. The student's tensors are leaves with a gradient."""

    student: Tensor  # (B, C) logits
    teacher: Tensor
    labels: Tensor  # (B,)
    s_maps: tuple[Tensor, Tensor]  # two layers, (B, D, H, W)
    t_maps: tuple[Tensor, Tensor]
    s_vectors: Tensor  # (B, D)
    t_vectors: Tensor
    s_tokens: Tensor  # (B, T, D)
    t_tokens: Tensor
    s_scores: Tensor  # (B, h, T, T) attention before the softmax
    t_scores: Tensor
    log_variance: Tensor  # (D,)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.student, *self.s_maps, self.s_vectors, self.s_tokens, self.s_scores]


def draw(seed: int) -> Inputs:
    """Random inputs of a size and a scale that change with the seed."""
    generator = torch.Generator().manual_seed(seed)
    rows, classes, scale = 4 + seed % 5, 5 + seed % 7, 0.5 + seed % 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    def leaf(*shape: int) -> Tensor:
        return normal(*shape).requires_grad_()

    return Inputs(
        leaf(rows, classes), normal(rows, classes), torch.randint(0, classes, (rows,), generator=generator),
        (leaf(rows, 6, 4, 4), leaf(rows, 8, 4, 4)), (normal(rows, 6, 4, 4), normal(rows, 8, 4, 4)),
        leaf(rows, 16), normal(rows, 16), leaf(rows, 5, 12), normal(rows, 5, 12),
        leaf(rows, 2, 5, 5), normal(rows, 2, 5, 5), normal(8),
    )  # fmt: skip


Value = Callable[[Inputs], Tensor]
Stated = Callable[[Tensor, Inputs], Tensor]

T = 4.0  # the temperature of all losses that have one
OURS: dict[str, Value] = {
    "activation_boundary": lambda x: losses.activation_boundary(x.s_maps[1], x.t_maps[1]),
    "attention_kl": lambda x: losses.attention_kl([x.s_scores], [x.t_scores], given="scores"),
    "attention_mse": lambda x: losses.attention_mse([x.s_scores], [x.t_scores]),
    "attention_transfer": lambda x: losses.attention_transfer(x.s_maps[1], x.t_maps[1]),
    "binary_cross_entropy": lambda x: losses.binary_cross_entropy(x.student, x.teacher.sigmoid()),
    "correlation_congruence": lambda x: losses.correlation_congruence(x.s_vectors, x.t_vectors),
    "cosine_hidden": lambda x: losses.cosine_hidden(x.s_tokens, x.t_tokens),
    "cross_entropy": lambda x: losses.cross_entropy(x.student, x.labels, label_smoothing=0.1),
    "decoupled": lambda x: losses.decoupled(x.student, x.teacher, x.labels, temperature=T),
    "dist": lambda x: losses.dist(x.student, x.teacher, beta=2.0, gamma=0.5, temperature=T),
    "factor_transfer": lambda x: losses.factor_transfer(x.s_maps[1], x.t_maps[1]),
    "flow": lambda x: losses.flow(x.s_maps, x.t_maps),
    "hidden_mse": lambda x: losses.hidden_mse([x.s_tokens], [x.t_tokens]),
    "hint": lambda x: losses.hint(x.s_maps[1], x.t_maps[1]),
    "info_nce": lambda x: losses.info_nce(x.s_vectors, x.t_vectors, tau=0.07),
    "jensen_shannon": lambda x: losses.jensen_shannon(x.student, x.teacher, mix=0.3, temperature=T),
    "logit_mse": lambda x: losses.logit_mse(x.student, x.teacher),
    "margin_mse": lambda x: losses.margin_mse(x.student, x.teacher, torch.zeros_like(x.labels)),
    "overhaul": lambda x: losses.overhaul(x.s_maps[1], x.t_maps[1], margin=-0.5),
    "patient": lambda x: losses.patient([x.s_tokens], [x.t_tokens]),
    "probabilistic_transfer": lambda x: losses.probabilistic_transfer(x.s_vectors, x.t_vectors),
    "regression_mse": lambda x: losses.regression_mse(x.student, x.teacher),
    "relational_angle": lambda x: losses.relational_angle(x.s_vectors, x.t_vectors),
    "relational_distance": lambda x: losses.relational_distance(x.s_vectors, x.t_vectors),
    "reverse_soft_target": lambda x: losses.reverse_soft_target(x.student, x.teacher, temperature=T),
    "review": lambda x: losses.review([x.s_maps[1]], [x.t_maps[1]]),
    "similarity_preserving": lambda x: losses.similarity_preserving(x.s_vectors, x.t_vectors),
    "soft_target": lambda x: losses.soft_target(x.student, x.teacher, temperature=T),
    "standardized": lambda x: losses.standardized(x.student, x.teacher, temperature=T),
    "variational": lambda x: losses.variational(x.s_maps[1], x.t_maps[1], x.log_variance),
    "weighted_soft_target": lambda x: losses.weighted_soft_target(x.student, x.teacher, x.labels, temperature=T),
}


@dataclass(frozen=True)
class Pair:
    """A loss of theirs beside one of ours."""

    name: str
    loss: str  # ours
    their: Value
    reason: str = ""  # why theirs is not ours, where it is not
    stated: Stated = lambda value, x: value  # theirs, by that reason, from our value
    our: Value | None = None  # in place of the usual call

    def ours(self, x: Inputs) -> Tensor:
        return (self.our or OURS[self.loss])(x)
