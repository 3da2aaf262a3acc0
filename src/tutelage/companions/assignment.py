"""Every layer of a student beside every one of a teacher, and how much each pair counts, for semantic calibration.

Shapes:  B batch · S, L layers of the student and of the teacher · C channels · H, W height and width · N the size of a
whole batch · D features of queries and keys.
"""

from __future__ import annotations

from typing import Self, final

import torch.nn.functional as F
from torch import Tensor, nn, stack

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.shapes import Shape, count_of, maps
from tutelage.losses.vectors import pooled, product, unit
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Calibration", "Projections"]

_NARROWEST = 16  # a quarter of a batch is the authors' width, which of a small batch would leave no direction to learn


@final
class Projections(Companion):
    """The student's layers, each projected to each of the teacher's; beside them the teacher's, in the same sizes.

    Three convolutions, 1×1, 3×3 and 1×1, each followed by a batch norm, with ReLUs between them. Of two maps of
    different sizes the larger is averaged to the smaller.

    Args:
        layers: the student's and the teacher's, by path or pattern, each once.
        ours: shapes of the student's maps.
        theirs: shapes of the teacher's.

    Reference: Chen, Mei, Zhang, Wang, Feng, Chen 2021, arXiv 2012.03236, section 3.
    """

    def __init__(self, layers: tuple[list[str], list[str]], ours: list[Shape], theirs: list[Shape]) -> None:
        super().__init__()
        self.layers = layers
        self.sizes = [(min(s[2], t[2]), min(s[3], t[3])) for s in ours for t in theirs]
        self.projections = nn.ModuleList(_projection(s[1], t[1]) for s in ours for t in theirs)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: a layer puts out no map.
        """
        layers, told = _layers(term), around.told(term.speaker)
        own = [tuple(feature.shape) for feature in _features(ours, layers[0], "the student")]
        other = [tuple(feature.shape) for feature in _features(told, layers[1], "the teacher")]
        maps([*own, *other], "semantic calibration")
        return cls(layers, own, other)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """S · L projected maps, row by row, then the teacher's S · L beside them, without a graph."""
        own = _features(ours, self.layers[0], "the student")
        other = _features(seen.told, self.layers[1], "the teacher")
        pairs = [(one, two.detach()) for one in own for two in other]
        parts = list(zip(pairs, self.sizes, self.projections, strict=True))
        projected = [projection(pooled(one, size)) for (one, _), size, projection in parts]
        return projected + [pooled(two, size) for (_, two), size, _ in parts]


@final
class Calibration(Companion):
    """Attention of each of the student's layers over the teacher's, for each example.

        q_i, k_j = unit vectors that two linear layers with a ReLU make of an example's similarities to its batch
        α_ij = softmax over j of q_i · k_j

    Similarities are cosines of flattened features. A batch that is smaller than a whole one is filled up with zeros,
    and of one that is larger the similarities to its first N examples count. So the attention depends on the order of
    examples in a batch, and means nothing once training is over.

    Args:
        layers: the student's and the teacher's, by path or pattern, each once.
        size: N.
        width: D.

    Reference: Chen, Mei, Zhang, Wang, Feng, Chen 2021, arXiv 2012.03236, equations 6 to 8.
    """

    def __init__(self, layers: tuple[list[str], list[str]], size: int, width: int) -> None:
        super().__init__()
        self.layers, self.size = layers, size
        self.queries = nn.ModuleList(_embedding(size, width) for _ in layers[0])
        self.keys = nn.ModuleList(_embedding(size, width) for _ in layers[1])

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`."""
        size = around.batch_size or len(around.batch)
        return cls(_layers(term), size, count_of(term, "width", max(size // 4, _NARROWEST)))

    def forward(self, ours: Outputs, seen: Seen) -> Tensor:
        """(B, S, L), rows adding up to 1."""
        own = _features(ours, self.layers[0], "the student")
        other = _features(seen.told, self.layers[1], "the teacher")
        queries = stack([self._embedded(one, net) for one, net in zip(own, self.queries, strict=True)], 1)
        keys = stack([self._embedded(one.detach(), net) for one, net in zip(other, self.keys, strict=True)], 1)
        return product(queries, keys.mT).softmax(-1)

    def _embedded(self, feature: Tensor, net: nn.Module) -> Tensor:
        rows = unit(feature.flatten(1).float())
        similar = product(rows, rows.mT)  # (B, B)
        return unit(net(F.pad(similar, (0, self.size - len(rows)))).float())


def _layers(term: Term) -> tuple[list[str], list[str]]:
    own, other = (dict.fromkeys(getattr(place, side) for place in term.places) for side in ("student", "teacher"))
    return list(own), list(other)


def _features(outputs: Outputs, layers: list[str], whose: str) -> list[Tensor]:
    return [feature_at(outputs.features, layer, whose) for layer in layers]


def _projection(inward: int, outward: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inward, outward, 1, bias=False), nn.BatchNorm2d(outward), nn.ReLU(),
        nn.Conv2d(outward, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU(),
        nn.Conv2d(outward, outward, 1, bias=False), nn.BatchNorm2d(outward),
    )  # fmt: skip


def _embedding(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
