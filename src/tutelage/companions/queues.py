"""Queues of embeddings of the examples seen lately, for `losses.seed_similarity` and its kin.

Shapes:  B batch · D features · K places in the queue.
"""

from __future__ import annotations

import math
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.known import everyones
from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.shapes import Shape, count_of, shapes_of, shown
from tutelage.errors import InputError, ModelError
from tutelage.losses.targets import as_float
from tutelage.losses.vectors import unit
from tutelage.objective import Place, Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Anchors", "TwinAnchors"]

_PLACES = 4096


class _Queue(nn.Module):
    """The directions of the last K rows that were put in; (K, D) float32, NaN where nothing was yet.

    They are part of every checkpoint: 4 · K · D bytes.
    """

    rows: Tensor
    at: Tensor  # () int64, where the next row goes

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.full((places, width), math.nan))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, features: Tensor) -> Tensor:
        """The queue after these rows (B, D), and those of all other processes, have gone in.

        Raises:
            InputError: they are more than it has places.
        """
        found = torch.cat([share for (share,) in everyones(unit(as_float(features)).to(self.rows.dtype))])
        if len(found) > len(self.rows):
            raise InputError(
                "a queue is shorter than a batch", given=f"size {len(self.rows)}, {len(found)} examples",
                expected="a size above that of batches", fix="set companion: {size: …}",
            )  # fmt: skip
        places = (self.at + torch.arange(len(found), device=self.at.device)) % len(self.rows)
        self.rows[places] = found
        self.at.copy_((self.at + len(found)) % len(self.rows))
        # A copy: the graph of this step keeps it, and the next step writes here.
        return self.rows.clone()


def _size(term: Term, around: Around) -> int:
    """How many places a queue has: as many as there are examples, but at least two batches and at most 4096."""
    examples = len(torch.unique(around.known[0])) if around.known is not None else _PLACES
    return count_of(term, "size", max(min(_PLACES, examples), 2 * around.batch_size))


def _width(shape: Shape, whose: str) -> int:
    if len(shape) != 2:
        raise ModelError(
            "a queue keeps one vector for each example, and this layer puts out something else",
            given=f"{whose} {shown(shape)}", expected="(B, D)",
            fix="listen where the output is pooled, such as net.dropout",
        )  # fmt: skip
    return shape[1]


@final
class Anchors(Companion):
    """The teacher's embeddings of the examples seen lately, those of this batch put in first.

    Args:
        place: where the term listens.
        width: D of the teacher's.
        size: K.

    Reference: Fang, Wang, Wang, Zhang, Yang, Liu 2021, arXiv 2101.04731, section 3.2.
    """

    def __init__(self, place: Place, width: int, size: int) -> None:
        super().__init__()
        self.place = place
        self.queue = _Queue(size, width)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: the teacher's layer puts out no vectors.
        """
        ((_, theirs),) = shapes_of(term, ours, around)
        return cls(term.places[0], _width(theirs, "teacher"), _size(term, around))

    def forward(self, ours: Outputs, seen: Seen) -> Tensor:
        """(K, D), of length 1, NaN in rows that are not filled yet."""
        return self.queue.put(feature_at(seen.told.features, self.place.teacher, "the teacher"))


@final
class TwinAnchors(Companion):
    """The teacher's and the student's embeddings of the same examples, as both were when these were last seen.

    Args:
        place: where the term listens.
        widths: D of the student's, and of the teacher's.
        size: K.

    Reference: Koohpayegani, Tejankar, Pirsiavash 2020, arXiv 2010.14713, section 3.
    """

    def __init__(self, place: Place, widths: tuple[int, int], size: int) -> None:
        super().__init__()
        self.place = place
        self.student, self.teacher = (_Queue(size, width) for width in widths)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: a layer puts out no vectors.
        """
        ((mine, theirs),) = shapes_of(term, ours, around)
        widths = _width(mine, "student"), _width(theirs, "teacher")
        return cls(term.places[0], widths, _size(term, around))

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """[(K, D) of the teacher, (K, D) of the student], as in `Anchors`."""
        theirs = feature_at(seen.told.features, self.place.teacher, "the teacher")
        mine = feature_at(ours.features, self.place.student, "the student")
        return [self.teacher.put(theirs), self.student.put(mine)]
