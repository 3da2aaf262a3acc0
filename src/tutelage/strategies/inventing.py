"""Batches that a generator makes up while the loop runs, and the generator's own turn between the student's steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from tutelage.attacks import answering
from tutelage.data.draws import mix
from tutelage.errors import TrainingError
from tutelage.strategies.generators import Generator, Learner
from tutelage.strategies.methods import Aims, Method
from tutelage.strategies.synthesis_losses import (
    LayerInputs,
    activation,
    batch_statistics,
    disagreement,
    imbalance,
    sureness,
)
from tutelage.training import Cohort, Listener, Moment
from tutelage.types import ATTACKED, Batch

__all__ = ["Inventor", "Rounds", "aimed"]

# What a number is drawn for, so that no two draws are secretly the same.
_STUDENTS, _GENERATORS, _CHECKS = 1, 2, 3


@final
@dataclass(frozen=True, slots=True)
class Rounds:
    """How steps are told: so many rounds of so many steps, the epochs of a training without examples."""

    count: int
    steps: int

    @staticmethod
    def of(steps: int, longest: int = 100) -> Rounds:
        """As few even rounds of at most `longest` as hold `steps`, which may round them up by a few."""
        count = math.ceil(steps / longest)
        return Rounds(count, math.ceil(steps / count))


def aimed(aims: Aims, x: Tensor, teacher: nn.Module, student: nn.Module) -> Tensor:
    """What a generator makes small, for inputs (B, …) with their graph; both models are asked in eval mode.

    Raises:
        ModelError: an answer without logits, or a teacher without the layers that an aim reads.
    """
    with answering(teacher) as ask, LayerInputs(teacher) as inputs:
        logits = ask(x)
        loss = torch.zeros((), device=x.device)
        if aims.sureness:
            loss = loss + aims.sureness * sureness(logits)
        if aims.balance:
            loss = loss + aims.balance * imbalance(logits)
        if aims.activation:
            loss = loss + aims.activation * activation(inputs.feature())
        if aims.statistics:
            loss = loss + aims.statistics * batch_statistics(inputs.norms())
    if aims.disagreement:
        # In train mode the student's own statistics would move with what nobody teaches it.
        with answering(student) as ask_student:
            loss = loss + aims.disagreement * disagreement(ask_student(x), logits, aims.kind)
    return loss


@final
class Inventor(Listener):
    """Gives the loop its batches, and has its turn after every few of them.

    What it draws is a function of (seed, step), and the generator keeps its optimizer's moments in its state, so that
    a checkpoint holds all of it.

    Args:
        learner: of the generator; on the device.
        method: aims, and how often the generator has its turn.
        teacher: whose gradients it follows.
        student: as it learns, with nothing wrapped around it.
        batch_size: inputs made at a time.
        rounds: how long it goes on.
        lr: the generator's learning rate at the start; it falls to 0 along half a cosine.
        seed: of the noise.
    """

    def __init__(
        self,
        learner: Learner,
        method: Method,
        teacher: nn.Module,
        student: nn.Module,
        *,
        batch_size: int,
        rounds: Rounds,
        lr: float,
        seed: int,
    ) -> None:
        self.learner = learner
        self._generator = learner.module
        assert isinstance(self._generator, Generator)
        self._method, self._teacher, self._student = method, teacher, student
        self._batch_size, self._rounds, self._lr, self._seed = batch_size, rounds, lr, seed

    @property
    def steps_per_epoch(self) -> int:
        """Student's steps in a round."""
        return self._rounds.steps

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of a round, made as they are asked for, each by the generator as it is by then."""
        for within in range(start, self._rounds.steps):
            step = epoch * self._rounds.steps + within
            with torch.no_grad():
                x = self._generator.train()(self._noise(step, _STUDENTS))
            ids = torch.arange(len(x), device=x.device) + step * len(x)
            # Nobody asked for classes, and nobody knows any: a target that says so is read by no data-free objective.
            yield Batch(ids, {"x": x}, torch.zeros(len(x), dtype=torch.int64, device=x.device), view=ATTACKED)

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        if at.step % self._method.student_steps:
            return
        x = self._generator.train()(self._noise(at.step, _GENERATORS))
        loss = aimed(self._method.aims, x, self._teacher, self._student)
        if not math.isfinite(float(loss.detach())):
            raise TrainingError("the loss of the generator is not finite", where=f"step {at.step}", fix="lower its lr")
        self.learner.learn(loss, self._lr * 0.5 * (1.0 + math.cos(math.pi * at.step / max(at.steps, 1))))

    def sample(self, count: int, stream: int = _CHECKS) -> Tensor:
        """Inputs (count, …) by the generator as it is, in eval mode; the same noise at every call."""
        with torch.no_grad():
            made: Tensor = self._generator.eval()(self._noise(0, stream, count))
        return made

    def _noise(self, step: int, stream: int, count: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(int(mix(self._seed, stream, step)) >> 1)
        assert isinstance(self._generator, Generator)
        drawn = torch.randn(count or self._batch_size, self._generator.noise, generator=generator)
        return drawn.to(self._generator.mean.device)
