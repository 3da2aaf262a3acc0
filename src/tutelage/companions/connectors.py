"""Small trainable layers that bring a student's features into the shape of a teacher's.

Shapes:  B batch · D features · T tokens · C channels · H, W height and width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses.vectors import pooled

__all__ = ["Connector"]

_HEADS = 4
_VARIANCE = 5.0


class Connector(nn.Module):
    """Maps the student's feature to the teacher's shape: features by layers, height and width by pooling.

    Args:
        student: shape of the student's feature, (B, D), (B, T, D) or (B, C, H, W).
        teacher: shape of the teacher's, of the same kind.
        kind: a key of `words.CONNECTORS`.
        variance: whether a variance for each of the teacher's channels learns along, from 5 on as VID's authors do.

    Raises:
        ModelError: the shapes are of different kinds, differ in tokens, or the kind does not suit them.
    """

    def __init__(
        self, student: tuple[int, ...], teacher: tuple[int, ...], kind: str = "auto", *, variance: bool = False
    ) -> None:
        super().__init__()
        maps = len(student) == 4
        self.size = (teacher[2], teacher[3]) if len(teacher) == 4 else None
        ours, theirs = (shape[1] if maps else shape[-1] for shape in (student, teacher))
        same_kind = len(student) == len(teacher) and len(student) in (2, 3, 4)
        if not same_kind or (not maps and student[1:-1] != teacher[1:-1]):
            raise ModelError(
                "no connector leads from one shape to the other",
                given=f"student {_shown(student)}, teacher {_shown(teacher)}",
                expected="both (B, D), both (B, T, D) with the same T, or both (B, C, H, W)",
                fix="listen to layers whose outputs are of the same kind",
            )
        if kind == "none" and student[1:] != teacher[1:]:
            raise ModelError(
                "the shapes differ, and `connector: none` was asked for",
                given=f"student {_shown(student)}, teacher {_shown(teacher)}", fix="use connector: linear",
            )  # fmt: skip
        if kind == "auto":
            kind = "none" if ours == theirs else "linear"
        self.layers = _layers(kind, ours, theirs, maps, len(student))
        self.log_variance = nn.Parameter(torch.full((theirs,), math.log(_VARIANCE))) if variance else None

    def forward(self, feature: Tensor) -> Tensor:
        if self.size is not None and tuple(feature.shape[2:]) != self.size:
            feature = pooled(feature, self.size)  # averages of windows; repeats what is there where there is too little
        matched: Tensor = self.layers(feature)
        return matched


def _layers(kind: str, ours: int, theirs: int, maps: bool, ndim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        # No bias in the convolution would be FitNets' letter; with one it can also match a teacher's mean.
        return nn.Conv2d(ours, theirs, 1) if maps else nn.Linear(ours, theirs)
    if kind == "mlp":
        if maps:
            return nn.Sequential(nn.Conv2d(ours, theirs, 1), nn.ReLU(), nn.Conv2d(theirs, theirs, 1))
        return nn.Sequential(nn.Linear(ours, theirs), nn.ReLU(), nn.Linear(theirs, theirs))
    if ndim != 3:
        raise ModelError("a transformer block connects tokens (B, T, D)", given=f"{ndim} dimensions", fix="use mlp")
    heads = next(heads for heads in range(min(_HEADS, ours), 0, -1) if ours % heads == 0)
    block = nn.TransformerEncoderLayer(ours, heads, 2 * ours, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(block, nn.Linear(ours, theirs))


def _shown(shape: tuple[int, ...]) -> str:
    return "(B, " + ", ".join(map(str, shape[1:])) + ")"
