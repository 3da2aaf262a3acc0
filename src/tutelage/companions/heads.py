"""The student's feature as the teacher's last layer would read it, for `losses.representation_regression`."""

from __future__ import annotations

from typing import Self, final

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.shapes import Shape, shapes_of, shown
from tutelage.errors import ModelError
from tutelage.models.reuse import check_read
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Regressed"]


@final
class Regressed(Companion):
    """f = the mean over places of ReLU(batch norm(1×1 convolution(s))), and the teacher's logits of it, W f + b.

    W and b are the teacher's and stay as they are: buffers, which no optimizer sees.

    Args:
        layer: the student's, by path or pattern.
        shape: of what it puts out, (B, C) or (B, C, H, W).
        head: the teacher's last linear layer.

    Reference: Yang, Martinez, Bulat, Tzimiropoulos 2021, ICLR.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: str, shape: Shape, head: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        width = head.in_features
        if len(shape) == 4:
            self.layers = nn.Sequential(nn.Conv2d(shape[1], width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        else:
            self.layers = nn.Sequential(nn.Linear(shape[1], width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", None if head.bias is None else head.bias.detach().clone())

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: the teacher's last layer is not known, or is not what reads the term's place; or the student's
                layer puts out neither vectors nor maps.
        """
        told, place = around.told(term.speaker), term.places[0]
        head = check_read(around.head, feature_at(told.features, place.teacher, "the teacher"), told.logits)
        ((shape, _),) = shapes_of(term, ours, around)
        if len(shape) not in (2, 4):
            raise ModelError(
                "softmax regression reads vectors or maps of the student", given=shown(shape),
                expected="(B, C) or (B, C, H, W)", fix="listen to a layer whose output is pooled over tokens",
            )  # fmt: skip
        return cls(place.student, shape, head)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """[f (B, D), W f + b (B, C)]."""
        found: Tensor = self.layers(feature_at(ours.features, self.layer, "the student"))
        feature = found.mean((2, 3)) if found.ndim == 4 else found
        return [feature, F.linear(feature, self.weight, self.bias)]
