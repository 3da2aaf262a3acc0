"""Experts that guess a teacher's embedding from a student's, and a gate that chooses among them.

Shapes:  B batch · M experts · D features of the teacher · H hidden units of an expert.
"""

from __future__ import annotations

from typing import Self, final

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.rows import averaged
from tutelage.companions.shapes import count_of
from tutelage.data.draws import Stream, mix
from tutelage.objective import Place, Term
from tutelage.taps import feature_at
from tutelage.types import Batch, Outputs

__all__ = ["Experts"]

_EXPERTS = 30  # the authors'


@final
class Experts(Companion):
    """M small nets, linear, ReLU, linear, and a linear gate that reads the teacher's embedding.

    Beside the gate's logits it adds Gumbel noise, a function of the seed, the example, its view and the progress of
    training, so that batches may be cut in any way; how hard is chosen is the loss's own, which knows the temperature.
    The first layers of all experts are one product, and so are the second ones.

    Args:
        place: where the term listens.
        widths: of the student's and the teacher's features, averaged over places or tokens.
        count: M.
        seed: of the noise.

    Reference: Kang, Hwang, Kweon, Yu 2020, CIKM, arXiv 2012.04357, section 3.1.
    """

    def __init__(self, place: Place, widths: tuple[int, int], count: int, seed: int) -> None:
        super().__init__()
        ours, theirs = widths
        hidden = (ours + theirs) // 2
        self.place, self.count, self.seed = place, count, seed
        self.inward = nn.Linear(ours, count * hidden)
        # Each drawn as a layer by itself draws: of one that holds them all, the first weights would be too small.
        outward = [nn.Linear(hidden, theirs) for _ in range(count)]
        self.weight = nn.Parameter(torch.stack([one.weight.detach().mT for one in outward]))  # (M, H, D)
        self.bias = nn.Parameter(torch.stack([one.bias.detach() for one in outward]))  # (M, D)
        self.gate = nn.Linear(theirs, count)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            InputError: the number of experts is out of range, or a layer puts out no rows.
        """
        place, told = term.places[0], around.told(term.speaker)
        mine = averaged(feature_at(ours.features, place.student, "the student"))
        theirs = averaged(feature_at(told.features, place.teacher, "the teacher"))
        count = count_of(term, "experts", _EXPERTS)
        return cls(place, (mine.shape[-1], theirs.shape[-1]), count, around.seed)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """[each expert's guess (B, M, D), the gate's logits and noise (B, M), the teacher's embedding (B, D)]."""
        mine = averaged(feature_at(ours.features, self.place.student, "the student"))
        theirs = averaged(feature_at(seen.told.features, self.place.teacher, "the teacher")).detach()
        noise = self.drawn(seen.batch, seen.progress).to(mine)
        # In half precision two experts would soon be equally good, and the noise would lose its tail.
        with torch.autocast(mine.device.type, enabled=False):
            inner = self.inward(mine).relu().unflatten(-1, (self.count, -1))  # (B, M, H)
            guesses = (inner.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias
            return [guesses, self.gate(theirs) + noise, theirs]

    def drawn(self, batch: Batch, progress: float) -> Tensor:
        """The noise of each example and expert just now, (B, M) float64, −log(−log u) with u uniform in (0, 1)."""
        ids, number = batch.ids.cpu().numpy()[:, None], np.arange(self.count, dtype=np.int64)[None]
        words = mix(self.seed, Stream.EXPERT, int(progress * 2**52), batch.view, ids, number)
        # 52 bits and a half: neither 0 nor 1, so that every logarithm is finite.
        uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return torch.from_numpy(-np.log(-np.log(uniform)))
