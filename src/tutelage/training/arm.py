"""One arm of a comparison: a distiller with its optimizer, its memory of the best epoch, and its reasons to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.distiller import Asked, Distiller
from tutelage.errors import TrainingError
from tutelage.sources import Source
from tutelage.teachers.moving import MovingTeacher
from tutelage.training.device import Device
from tutelage.training.optim import LearningRate
from tutelage.types import Batch, Outputs

__all__ = ["Arm", "Stop"]


@dataclass(frozen=True, slots=True)
class Stop:
    """When an arm has learned enough, judged on validation data only.

    Args:
        metric: which number of the validation picks the best epoch: "accuracy" (more is better) or "nll" (less is).
        patience: stop after this many epochs without a better one; None never does.
        target: stop once the validation accuracy reaches this; None never does.
    """

    metric: str = "accuracy"
    patience: int | None = None
    target: float | None = None


@final
class Arm:
    """A student that learns.

    Args:
        name: how the report calls it.
        distiller: student, teacher and objective.
        optimizer: over all that learns.
        rate: sets the learning rate before a step.
        student: the module that keeps the weights, where the distiller's is wrapped around it.
        extras: what else learns or remembers and is kept in checkpoints, but never exported: connectors, companions.
        moving: the student's own moving averages, by the source that terms call them.
        stale: the student as it was up to so many steps ago, for peers who ask for that.
        peers: the names of the cohort's arms that it listens to.
        clip: the largest norm of the gradient, or None.
        stop: when to stop, and by what to choose the best epoch.
    """

    def __init__(
        self,
        name: str,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        rate: LearningRate,
        *,
        student: nn.Module | None = None,
        extras: nn.Module | None = None,
        clip: float | None = None,
        stop: Stop | None = None,
        moving: Mapping[Source, MovingTeacher] = MappingProxyType({}),
        stale: Mapping[int, MovingTeacher] = MappingProxyType({}),
        peers: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.distiller = distiller
        self.student = student if student is not None else distiller.student
        self.extras = extras
        self.optimizer = optimizer
        self.rate = rate
        self.clip = clip
        self.stop = stop or Stop()
        self.moving = moving
        self.stale = stale
        self.peers = tuple(peers)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.learning = True
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self._sums: dict[str, float] = {}
        self._count = 0
        self.distiller.train()

    def ask(self, batch: Batch, answer: Outputs | None, device: Device, *, progress: float) -> Asked:
        """The first half of a step: what the student says, with its graph."""
        with device.autocast():
            return self.distiller.ask(batch, answer=answer, progress=progress)

    def learn(
        self,
        asked: Asked,
        device: Device,
        *,
        progress: float,
        step: int,
        others: Mapping[Source, Sequence[Outputs]] = MappingProxyType({}),
    ) -> None:
        """The second half: learn from what was said.

        Args:
            asked: the first half.
            device: where.
            progress: 0 at the first step, 1 at the end.
            step: its number, from 0.
            others: what peers and other arms say; the student's own averages are asked here.

        Raises:
            TrainingError: the loss or the gradient is not finite; the weights are as they were before the step.
        """
        with device.autocast():
            own = {source: (teacher.answer(asked.batch),) for source, teacher in self.moving.items()}
            taken = self.distiller.judge(asked, progress=progress, past=self.curve, others={**others, **own})
        for parameter in self.parameters:
            parameter.grad = None
        device.backward(taken.loss, self.optimizer)
        norm = device.gradient_norm(self.parameters, self.clip)
        # One number tells of both, so that there is one wait for the device, not two.
        total = float(taken.loss.detach())
        if not (math.isfinite(total) and (norm is None or math.isfinite(norm))):
            raise TrainingError(
                f"the {'gradient' if math.isfinite(total) else 'loss'} of arm `{self.name}` is not finite",
                where=f"step {step}",
                given=f"loss {total:g}, parts "
                + ", ".join(f"{name} {float(part):g}" for name, part in taken.parts.items()),
                fix="lower train.lr, set train.clip (1.0 is usual), or look for NaN in the data",
            )
        self.rate.before_step(self.optimizer, progress)
        device.step(self.optimizer)
        self.rate.after_step()
        for teacher in (*self.moving.values(), *self.stale.values()):
            teacher.follow(self.student, step)
        sums = self._sums
        sums["loss"] = sums.get("loss", 0.0) + total
        if len(taken.parts) > 1:
            for name, part in taken.parts.items():
                sums[name] = sums.get(name, 0.0) + float(part)
        self._count += 1

    def close_epoch(self, epoch: int, step: int, scores: Mapping[str, float]) -> None:
        """Write down the epoch, keep the student if it is the best so far, and decide whether to go on."""
        row = {"epoch": float(epoch), "step": float(step), "lr": float(self.optimizer.param_groups[0]["lr"])}
        row |= {name: value / max(self._count, 1) for name, value in self._sums.items()}
        row |= {f"val_{name}": value for name, value in scores.items()}
        self._sums, self._count = {}, 0
        key = f"val_{self.stop.metric}"
        sign = -1.0 if self.stop.metric == "nll" else 1.0
        # A tie goes to the later epoch: it has seen more.
        if sign * row[key] >= max((sign * past[key] for past in self.curve), default=-math.inf):
            self.best = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
            self.best_epoch = epoch
        self.curve.append(row)
        self.rate.after_epoch(scores)
        stop = self.stop
        if stop.patience is not None and epoch - self.best_epoch >= stop.patience:
            self.learning = False
        if stop.target is not None and scores["accuracy"] >= stop.target:
            self.learning = False

    def state(self) -> dict[str, Any]:
        """All that a restart needs besides weights, best weights and the optimizer's tensors."""
        return {
            "learning": self.learning,
            "curve": self.curve,
            "best_epoch": self.best_epoch,
            "sums": self._sums,
            "count": self._count,
            "rate": self.rate.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up where `state` was taken."""
        self.learning = bool(state["learning"])
        self.curve = [dict(row) for row in state["curve"]]
        self.best_epoch = int(state["best_epoch"])
        self._sums = dict(state["sums"])
        self._count = int(state["count"])
        self.rate.load_state(state["rate"])
