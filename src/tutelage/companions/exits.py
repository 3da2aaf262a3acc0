"""Exits on earlier layers of a student, which only its training has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.rows import averaged
from tutelage.errors import InputError
from tutelage.losses.vectors import pooled
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Exits"]


class _Exit(nn.Module):
    """Leads a feature to the shape of the deepest one by a bottleneck, and that to logits.

    Norms are of single examples: an exit has no statistics of batches, so it does not care how large these are.
    """

    def __init__(self, ours: tuple[int, ...], deepest: tuple[int, ...], classes: int) -> None:
        super().__init__()
        maps = len(ours) == 4
        width = deepest[1] if maps else deepest[-1]
        narrow = max(width // 2, 1)
        self.size = (deepest[2], deepest[3]) if maps else None
        if maps:
            self.layers = nn.Sequential(
                nn.Conv2d(ours[1], narrow, 1, bias=False), nn.GroupNorm(1, narrow), nn.ReLU(),
                nn.Conv2d(narrow, narrow, 3, padding=1, bias=False), nn.GroupNorm(1, narrow), nn.ReLU(),
                nn.Conv2d(narrow, width, 1),
            )  # fmt: skip
        else:
            self.layers = nn.Sequential(
                nn.Linear(ours[-1], narrow, bias=False), nn.LayerNorm(narrow), nn.ReLU(), nn.Linear(narrow, width)
            )
        self.head = nn.Linear(width, classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        if self.size is not None and tuple(feature.shape[2:]) != self.size:
            feature = pooled(feature, self.size)
        found = self.layers(feature)
        return self.head(averaged(found.relu())), found


@final
class Exits(Companion):
    """One exit at every place but the last, which is the deepest; see `losses.own_exits`.

    Args:
        places: the student's layers that get one.
        shapes: of their features, and of the deepest one.
        classes: C.

    Raises:
        InputError: one place only, or features of different kinds.
    """

    def __init__(self, places: Sequence[str], shapes: Sequence[tuple[int, ...]], classes: int) -> None:
        super().__init__()
        deepest = shapes[-1]
        if not places:
            raise InputError(
                "exits lie on layers before the deepest one", given="one place", expected="two places or more",
                fix="name the layers from the earliest to the deepest, such as at: [net.stages.0, net.stages.2]",
            )  # fmt: skip
        for place, shape in zip(places, shapes, strict=False):
            tokens = len(shape) == 3 and shape[1] != deepest[1]
            if len(shape) != len(deepest) or len(shape) not in (2, 3, 4) or tokens:
                raise InputError(
                    f"no exit leads from `{place}` to the deepest layer",
                    given=f"shapes {tuple(shape)} and {tuple(deepest)}",
                    expected="both (B, D), both (B, T, D) with the same T, or both (B, C, H, W)",
                )
        self.places = tuple(places)
        self.exits = nn.ModuleList(_Exit(shape, deepest, classes) for shape in shapes[:-1])

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        assert isinstance(ours.logits, Tensor)
        places = [place.student for place in term.places]
        shapes = [tuple(feature_at(ours.features, place, "the student").shape) for place in places]
        return cls(places[:-1], shapes, ours.logits.shape[-1])

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        found = [
            leads(feature_at(ours.features, place, "the student"))
            for place, leads in zip(self.places, self.exits, strict=True)
        ]
        return [logits for logits, _ in found] + [feature for _, feature in found]
