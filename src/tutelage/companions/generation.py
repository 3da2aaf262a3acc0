"""Tokens that are made up where they were hidden, for `losses.masked_generation`.

Shapes:  B batch · T tokens · N tokens of the picture, a square number · D features.
"""

from __future__ import annotations

import math
from typing import Self, final

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.shapes import Shape, shapes_of, shown
from tutelage.data.draws import Stream, mix
from tutelage.errors import InputError, ModelError
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Batch, Outputs

__all__ = ["Generation"]


@final
class Generation(Companion):
    """The student's tokens in the teacher's width, some of them hidden, through 3×3 convolution, ReLU, 3×3 convolution.

    Which tokens of an example are hidden is a function of the seed, the example, its view and the progress of training.
    A token in front of a square number of them stands for the class and takes no part.

    Args:
        layer: the student's, by path or pattern.
        shapes: (B, T, D) of the student's and the teacher's tokens.
        share: of the tokens that are hidden.
        seed: of the cohort.

    Raises:
        ModelError: the tokens are no square.

    Reference: Yang, Li, Zeng, Li, Yuan, Li 2022, arXiv 2209.02432, section 3.
    """

    def __init__(self, layer: str, shapes: tuple[Shape, Shape], share: float, seed: int) -> None:
        super().__init__()
        ours, theirs = shapes
        self.layer, self.seed = layer, seed
        self.skipped, self.side = _square(ours)
        if len(theirs) != 3 or theirs[1] not in (self.side**2, self.side**2 + 1):
            raise ModelError(
                "student and teacher cut the picture into other tokens",
                given=f"student {shown(ours)}, teacher {shown(theirs)}",
                expected="(B, T, D) with the same square of tokens",
                fix="use models of the same patch size, or another loss",
            )  # fmt: skip
        self.hidden = min(max(round(share * self.side**2), 1), self.side**2)
        self.align = nn.Linear(ours[2], theirs[2])
        self.token = nn.Parameter(torch.zeros(theirs[2]))
        self.layers = nn.Sequential(
            nn.Conv2d(theirs[2], theirs[2], 3, padding=1), nn.ReLU(), nn.Conv2d(theirs[2], theirs[2], 3, padding=1)
        )

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            ModelError: the layers put out no tokens, no square of them, or not the same.
            InputError: the share is out of range.
        """
        share = term.companion["share"]
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 < share < 1.0:
            raise InputError("the share of hidden tokens is out of range", given=share, expected="a number in (0, 1)")
        (shapes,) = shapes_of(term, ours, around)
        return cls(term.places[0].student, shapes, share, around.seed)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """[tokens (B, N, D) in the teacher's width, which were hidden (B, N) bool]."""
        tokens = feature_at(ours.features, self.layer, "the student")[:, self.skipped :]
        hidden = self.drawn(seen.batch, seen.progress).to(tokens.device)
        aligned: Tensor = self.align(tokens)
        kept = torch.where(hidden.unsqueeze(-1), self.token.to(aligned.dtype), aligned)
        made: Tensor = self.layers(kept.mT.reshape(len(kept), -1, self.side, self.side))
        return [made.flatten(2).mT, hidden]

    def drawn(self, batch: Batch, progress: float) -> Tensor:
        """Which tokens of each example are hidden just now, (B, N) bool, equally many of each."""
        ids = batch.ids.cpu().numpy()[:, None]
        now = int(progress * 2**52)
        words = mix(self.seed, Stream.HIDDEN, now, batch.view, ids, np.arange(self.side**2, dtype=np.int64)[None])
        hidden = np.zeros(words.shape, dtype=bool)
        np.put_along_axis(hidden, words.argsort(-1, kind="stable")[:, : self.hidden], True, -1)
        return torch.from_numpy(hidden)


def _square(shape: Shape) -> tuple[int, int]:
    """How many tokens stand in front of the picture's, none or one, and how many of those make a row."""
    if len(shape) == 3:
        for skipped in (0, 1):
            side = math.isqrt(shape[1] - skipped)
            if side > 1 and side**2 + skipped == shape[1]:
                return skipped, side
    raise ModelError(
        "tokens are made up on a square", given=shown(shape), expected="(B, T, D), T a square number, or one above it",
        fix="listen to a block of a vision transformer, or use another loss",
    )  # fmt: skip
