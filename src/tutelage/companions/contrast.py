"""A memory of embeddings from which negatives are drawn, for `losses.contrastive_memory`.

Shapes:  B batch · N training examples · K negatives of each example · D numbers of an embedding.
"""

from __future__ import annotations

import math
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.companions.centres import momentum_of
from tutelage.companions.known import everyones, rows_of
from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.rows import averaged
from tutelage.companions.shapes import count_of
from tutelage.data.draws import Stream, mix
from tutelage.errors import InputError
from tutelage.losses.targets import positive
from tutelage.losses.vectors import unit
from tutelage.objective import Place, Term
from tutelage.taps import feature_at
from tutelage.types import Batch, Outputs

__all__ = ["Contrast", "Others"]

_NEGATIVES = 16384
_WIDTH = 128


@final
class Others:
    """Draws, for an example, others that are not of its class; an example without a label is of no class at all.

    Args:
        ids: (N,) of all examples; several of the same id are one, of the class that the first one has.
        targets: (N,) int64 classes, -1 where there is none; targets of another kind are no classes.

    Raises:
        InputError: an example has nobody to be told apart from.
    """

    def __init__(self, ids: Tensor, targets: Tensor) -> None:
        numbers, first = np.unique(ids.cpu().numpy(), return_index=True)
        self.ids = torch.from_numpy(numbers)  # rising
        known = targets.ndim == 1 and not targets.is_floating_point()
        classes = targets.cpu().numpy()[first].astype(np.int64) if known else np.full(len(numbers), -1)
        # Rows in the order of their classes: those to leave out for an example are a block of it.
        self._order = classes.argsort(kind="stable").astype(np.int64)
        place = np.empty_like(self._order)
        place[self._order] = np.arange(len(classes))
        sorted_ = classes[self._order]
        start, end = np.searchsorted(sorted_, classes), np.searchsorted(sorted_, classes, side="right")
        self._start = np.where(classes < 0, place, start)
        self._size = np.where(classes < 0, 1, end - start)
        if not len(classes) or int(self._size.max()) == len(classes):
            raise InputError(
                "negatives are drawn among examples of other classes, and there are none",
                given=f"{len(classes)} training examples of one class", expected="two classes or more",
            )  # fmt: skip

    def drawn(self, batch: Batch, rows: Tensor, count: int, *, seed: int, progress: float) -> Tensor:
        """K = `count` rows (B, K) for each example, drawn with replacement.

        A function of the seed, the progress of training, the view and the example: batches may be cut in any way.
        """
        ids, at = batch.ids.cpu().numpy()[:, None], rows.cpu().numpy()[:, None]
        now, number = int(progress * 2**52), np.arange(count, dtype=np.int64)[None]
        words = mix(seed, Stream.CONTRAST, now, batch.view, ids, number)
        start, size = self._start[at], self._size[at]
        found: NDArray[np.int64] = (words % (len(self._order) - size).astype(np.uint64)).astype(np.int64)
        return torch.from_numpy(self._order[found + np.where(found >= start, size, 0)]).to(batch.ids.device)


@final
class Contrast(Companion):
    """Two linear embeddings that both learn, the student's and the teacher's, and a memory of what they said.

    The memory holds N × D × 2 floats, 8 · N · D bytes: 51 MB for 50,000 examples, 1.3 GB for 1.28 million. They are
    part of every checkpoint, and a step holds a copy of them and 4 · B · N bytes of similarities on each side. An
    example's row is m · what it was + (1 − m) · what it is now, of length 1, written after it was read.

    Args:
        place: where the term listens.
        widths: of the student's and the teacher's features, averaged over places or tokens.
        others: whose negatives are whose.
        negatives: K.
        settings: `width`, D; `momentum`, m in [0, 1); `tau` > 0, by which similarities are divided.
        seed: of the draws.

    Reference: Tian, Krishnan, Isola 2019, arXiv 1910.10699, section 3 and its appendix on the implementation. There an
    example's own partner comes from the memory as well, so one epoch late; here it is today's.
    """

    memory: Tensor  # (2, N, D) float32 of the student's and the teacher's side
    log_levels: Tensor  # (2,) float32, log Z of the student's and the teacher's direction; NaN before the first batch
    ids: Tensor  # (N,) int64, rising

    def __init__(
        self,
        place: Place,
        widths: tuple[int, int],
        others: Others,
        negatives: int,
        settings: dict[str, Any],
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.place, self.negatives, self.seed = place, negatives, seed
        self.momentum, self.tau = settings["momentum"], settings["tau"]
        self.student, self.teacher = (nn.Linear(width, settings["width"]) for width in widths)
        self._others = others
        self.register_buffer("memory", unit(torch.randn(2, len(others.ids), settings["width"])))
        self.register_buffer("log_levels", torch.full((2,), math.nan))
        # Known again from the data when a run goes on.
        self.register_buffer("ids", others.ids.clone(), persistent=False)

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        """See `companions.building`.

        Raises:
            InputError: a setting is out of range, examples are not known, or there is nobody to be told apart from.
        """
        place, told = term.places[0], around.told(term.speaker)
        mine = averaged(feature_at(ours.features, place.student, "the student"))
        theirs = averaged(feature_at(told.features, place.teacher, "the teacher"))
        others, tau = Others(*around.ids), term.companion["tau"]
        positive("tau", tau)
        settings = {"width": count_of(term, "width", _WIDTH), "momentum": momentum_of(term), "tau": float(tau)}
        negatives = count_of(term, "negatives", min(_NEGATIVES, len(others.ids)))
        return cls(place, (mine.shape[-1], theirs.shape[-1]), others, negatives, settings, seed=around.seed)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        """[similarity of each pair (B,), the student's with negatives (B, K), the teacher's likewise, log Z (2,)]."""
        mine = averaged(feature_at(ours.features, self.place.student, "the student"))
        theirs = averaged(feature_at(seen.told.features, self.place.teacher, "the teacher")).detach()
        rows = rows_of(seen.batch.ids, self.ids)
        drawn = self._others.drawn(seen.batch, rows, self.negatives, seed=self.seed, progress=seen.progress)
        # A copy: the graph of this step keeps it, and the memory is written below.
        students, teachers = self.memory.clone()
        with torch.autocast(mine.device.type, enabled=False):
            student, teacher = unit(self.student(mine)), unit(self.teacher(theirs))
            agreed = (student * teacher).sum(-1) / self.tau
            # All similarities, then those that were drawn: their rows by themselves would be B · K · D numbers.
            of_student = (student @ teachers.mT).gather(1, drawn) / self.tau
            of_teacher = (teacher @ students.mT).gather(1, drawn) / self.tau
        self._remember(rows, student.detach(), teacher.detach(), _sums(agreed, of_student, of_teacher))
        return [agreed, of_student, of_teacher, self.log_levels.clone()]

    @torch.no_grad()
    def _remember(self, rows: Tensor, student: Tensor, teacher: Tensor, sums: Tensor) -> None:
        shares = everyones(rows, torch.stack([student, teacher]), sums)
        for where, what, _ in shares:
            kept = self.momentum * self.memory[:, where] + (1.0 - self.momentum) * what
            self.memory[:, where] = unit(kept).to(self.memory.dtype)
        every = torch.stack([its for _, _, its in shares])
        levels = every[:, :2].logsumexp(0) - every[:, 2].sum().log()
        self.log_levels.copy_(torch.where(self.log_levels.isnan(), levels, self.log_levels))


@torch.no_grad()
def _sums(agreed: Tensor, of_student: Tensor, of_teacher: Tensor) -> Tensor:
    """The logarithm of Σ e^u over a batch, for each direction, and how many similarities these were; (3,)."""
    whole = [torch.cat([agreed.unsqueeze(-1), one], -1).flatten() for one in (of_student, of_teacher)]
    return torch.stack([*(one.logsumexp(0) for one in whole), agreed.new_tensor(float(whole[0].numel()))])
