"""What a companion is: a module that learns or remembers for one term, and says what the term's loss reads."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.objective import read_view
from tutelage.sources import Source
from tutelage.types import Batch, Outputs

__all__ = ["Around", "Companion", "Seen", "Value"]

Value = Tensor | list[Tensor]


class Companion(nn.Module, abc.ABC):
    """Learns or remembers for one term.

    Its parameters learn with the student by the same optimizer; its buffers are kept in checkpoints with them. It must
    be a function of its weights, its buffers and its arguments: what it draws by chance it draws from a generator of
    its own, seeded by what it sees, so that a run that was killed continues with the same bits.
    """

    @abc.abstractmethod
    def forward(self, ours: Outputs, seen: Seen) -> Value:
        """What the term reads, for one batch.

        Args:
            ours: the student's logits (B, C) and its features by layer, with their graph.
            seen: all else of this step.
        """

    def hear(self, told: Sequence[Outputs]) -> None:
        """Be told what the term's source said of the same batch, when everybody has spoken and the loss is known.

        Args:
            told: its answer, or several; empty where it said nothing.
        """


@final
class Seen:
    """One step as companions see it. No dataclass, since wrappers for many devices take these apart."""

    __slots__ = ("answer", "batch", "progress")

    def __init__(self, batch: Batch, answer: Outputs | None, progress: float) -> None:
        self.batch = batch
        self.answer = answer  # what the teacher says, whomever the term listens to; None where nobody asked
        self.progress = progress  # 0 at the first step, 1 at the end

    @property
    def told(self) -> Outputs:
        """What the teacher says.

        Raises:
            InputError: nothing.
        """
        if self.answer is None:
            raise InputError("a companion reads what the teacher says, but there is no teacher", fix="pass one")
        return self.answer


@final
@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """What connectors and companions are built from.

    Args:
        batch: two or more examples on the student's device, to learn shapes from.
        answer: what the teacher says of them; None where no term asks.
        others: what other sources than the teacher say of them.
        view: the name of the input view that the student reads.
        head: the teacher's last linear layer, frozen, where it is known.
        known: ids (N,) and targets (N, …) of all training examples, for what remembers by id.
        batch_size: of the steps to come.
        seed: from which what learns along starts, and draws.
    """

    batch: Batch
    answer: Outputs | None = None
    others: Mapping[Source, Outputs] = field(default_factory=dict)
    view: str = "x"
    head: nn.Linear | None = None
    known: tuple[Tensor, Tensor] | None = None
    batch_size: int = 0
    seed: int = 0

    @property
    def inputs(self) -> Tensor:
        """What the student reads of the batch, (B, …)."""
        return read_view(self.batch, self.view)

    def told(self, source: Source | None) -> Outputs:
        """What a source says of the batch.

        Raises:
            InputError: it was not asked.
        """
        answer = self.answer if source is None else self.others.get(source)
        if answer is None:
            raise InputError(
                f"a term matches what {source or 'the teacher'} says, but nobody was asked",
                fix="pass a teacher, or read the student's features only",
            )
        return answer

    @property
    def ids(self) -> tuple[Tensor, Tensor]:
        """Ids and targets of all training examples.

        Raises:
            InputError: they are not known.
        """
        if self.known is None:
            raise InputError(
                "a term remembers by example, but the examples are not known",
                fix="pass known=(ids, targets) of the training part when making the Distiller",
            )
        return self.known
