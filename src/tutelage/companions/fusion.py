"""Fusion of a student's layers from the deepest to the earliest, for `losses.review`.

Shapes:  B batch · C channels of the student's layer · M channels in between · D channels of the teacher's · H, W its
height and width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.shapes import Shape, count_of, maps, shapes_of, shown
from tutelage.errors import ModelError
from tutelage.losses.vectors import pooled
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Fusion"]

_WIDEST = 512  # between the layers, as the authors have it


@final
class Fusion(Companion):
    """Attention-based fusion (ABF), top-down: each layer is mixed with what the deeper ones became.

        x' = conv1×1(x);  y = the deeper level's mixture, in the size of x;  a, b = σ(conv1×1([x', y]))
        mixture = a · x' + b · y, of the deepest x' alone;  out = conv3×3(mixture in the teacher's size)

    Both outer convolutions are followed by a batch norm and have no bias.

    Args:
        layers: the student's, by path or pattern, from the earliest to the deepest.
        shapes: of the student's and the teacher's maps at each.
        width: M.

    Reference: Chen, Liu, Zhao, Jia 2021, CVPR, arXiv 2104.09044, section 3.3.
    """

    def __init__(self, layers: tuple[str, ...], shapes: list[tuple[Shape, Shape]], width: int) -> None:
        super().__init__()
        self.layers = layers
        self.sizes = [theirs[2:] for _, theirs in shapes]
        self.inward = nn.ModuleList(_convolution(ours[1], width, 1) for ours, _ in shapes)
        self.shares = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in shapes[1:])
        self.outward = nn.ModuleList(_convolution(width, theirs[1], 3) for _, theirs in shapes)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: a layer puts out no map, or layers are not in order.
        """
        shapes = shapes_of(term, ours, around)
        maps([shape for pair in shapes for shape in pair], "a review")
        for (one, _), (next_, _) in pairwise(shapes):
            if next_[2] > one[2] or next_[3] > one[3]:
                raise ModelError(
                    "a review goes from the earliest layer to the deepest, whose maps do not grow",
                    given=f"{shown(one)}, then {shown(next_)}", fix="turn the order of the places round",
                )  # fmt: skip
        width = count_of(term, "width", min(_WIDEST, shapes[-1][0][1]))
        return cls(tuple(place.student for place in term.places), shapes, width)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """The fused maps in the teacher's shapes, in the order of the layers."""
        features = [feature_at(ours.features, layer, "the student") for layer in self.layers]
        found: list[Tensor] = []
        deeper: Tensor | None = None
        for level in range(len(features) - 1, -1, -1):
            mixture: Tensor = self.inward[level](features[level])
            if deeper is not None:
                # Where there is too little, `pooled` repeats what is there: the nearest neighbour.
                deeper = pooled(deeper, mixture.shape[2:])
                share = self.shares[level](torch.cat([mixture, deeper], 1)).sigmoid()
                mixture = mixture * share[:, :1] + deeper * share[:, 1:]
            deeper = mixture
            found.append(self.outward[level](pooled(mixture, self.sizes[level])))
        return found[::-1]


def _convolution(inward: int, outward: int, side: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inward, outward, side, padding=side // 2, bias=False), nn.BatchNorm2d(outward))
