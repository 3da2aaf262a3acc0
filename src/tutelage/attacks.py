"""Inputs made worse on purpose, within a bound that nobody would see: to train against, and to be judged by.

An attack moves every number of an input by at most `eps` and leaves none outside [0, 1], so that the result is an input
like any other; to rounding both hold exactly. It goes where something grows: the loss on labels, or the distance from
what a teacher says. Models are attacked in eval mode, and no parameter, statistic or mode of theirs is changed.

    fgsm    one step of size eps along the sign of the gradient
    pgd     many smaller steps, each followed by a projection into the ball, from a random start in it

An accuracy under such an attack is an upper bound: a stronger one may find what this one missed.

Shapes:  B batch · C classes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError
from tutelage.evaluation.significance import Estimate, wilson
from tutelage.losses import cross_entropy, soft_target
from tutelage.losses.gradients import kernels_with_derivatives
from tutelage.losses.vectors import check_choice
from tutelage.types import Batch, Logits

__all__ = ["Attack", "Goal", "Robustness", "answering", "fgsm", "pgd", "robust_accuracy"]

# Inputs (B, …) to what is to grow, (): each example's part of it may depend on that example only.
Goal = Callable[[Tensor], Tensor]


def fgsm(goal: Goal, x: Tensor, *, eps: float) -> Tensor:
    """One step along the sign of the gradient (FGSM); (B, …) → (B, …).

    Args:
        goal: what is to grow.
        x: (B, …) numbers in [0, 1]; not changed.
        eps: the largest change of a number, ≥ 0 in the unit of the inputs: 8 / 255 is usual for colour pictures.

    Returns:
        The attacked inputs, without a graph.

    Raises:
        InputError: inputs outside [0, 1], or an eps that is negative.
        ModelError: the goal does not depend on the inputs.

    Reference:
        Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    return pgd(goal, x, eps=eps, step=eps, steps=1)


def pgd(
    goal: Goal,
    x: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent in the ball of the largest change (PGD); (B, …) → (B, …).

    Args:
        goal: what is to grow.
        x: (B, …) numbers in [0, 1]; not changed.
        eps: radius of the ball, ≥ 0.
        steps: how many, ≥ 0; each costs a forward and a backward pass.
        step: the size of one, > 0; by default 2.5 · eps / steps, which reaches every corner from every start.
        generator: starts from a point drawn evenly from the ball, on the device of x; None starts from x.

    Returns:
        The inputs after the last step, without a graph.

    Raises:
        InputError: inputs outside [0, 1], or an option out of range.
        ModelError: the goal does not depend on the inputs.

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083.
    """
    _check(eps, steps, step)
    if not x.is_floating_point() or not x.numel():
        raise InputError(
            "this cannot be attacked", given=f"shape {tuple(x.shape)}, {x.dtype}",
            expected="floating-point numbers in [0, 1], at least one example", fix="divide bytes by 255 first",
        )  # fmt: skip
    x = x.detach()
    least, largest = (float(bound) for bound in x.aminmax())
    if not (least >= 0.0 and largest <= 1.0):
        raise InputError(
            "an attack needs to know where inputs end", given=f"numbers from {least:g} to {largest:g}",
            expected="[0, 1]", fix="scale them before, and normalise inside the model",
        )  # fmt: skip
    size = 2.5 * eps / max(steps, 1) if step is None else step
    low, high = (x - eps).clamp(min=0.0), (x + eps).clamp(max=1.0)
    moved = x.clone()
    if generator is not None:
        drawn = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        moved = torch.clamp(x + (2.0 * drawn - 1.0) * eps, low, high)
    for _ in range(steps):
        moved = torch.clamp(moved + size * _gradient(goal, moved).sign(), low, high)
    return moved


@final
@dataclass(frozen=True, slots=True)
class Attack:
    """What students are trained against: PGD on one of two goals. Two attacks of the same settings are equal.

    Args:
        eps: radius of the ball, ≥ 0, in the unit of the inputs.
        steps: how many, ≥ 0. Robust soft labels were trained with eps 0.031 and 10 steps of 0.003.
        step: the size of one; None is 2.5 · eps / steps.
        raises: "target", the student's cross-entropy, or "teacher", KL(teacher on clean inputs ‖ student).
        random: start from a random point of the ball.

    Raises:
        InputError: an option out of range.
    """

    eps: float
    steps: int = 10
    step: float | None = None
    raises: str = "target"
    random: bool = True

    def __post_init__(self) -> None:
        _check(self.eps, self.steps, self.step)
        check_choice("raises", self.raises, ("target", "teacher"))

    def __call__(
        self, model: nn.Module, x: Tensor, target: Tensor, teacher_logits: Logits | None, generator: torch.Generator
    ) -> Tensor:
        """Attack a model.

        Args:
            model: (B, …) to logits (B, C).
            x: (B, …) in [0, 1].
            target: labels (B,), or probabilities (B, C).
            teacher_logits: the teacher's on x; read where the attack raises the distance from them.
            generator: for the random start, on the device of x.

        Returns:
            The attacked inputs (B, …), without a graph.

        Raises:
            InputError: inputs outside [0, 1], or an attack on a teacher's answer without one.
            ModelError: the model does not answer with logits that depend on the inputs.
        """
        if self.raises == "teacher" and teacher_logits is None:
            raise InputError(
                "the attack raises the distance from a teacher's answer, but there is none",
                fix='pass a teacher, or raise the "target"',
            )
        with answering(model) as ask:

            def goal(moved: Tensor) -> Tensor:
                if self.raises == "teacher":
                    assert teacher_logits is not None
                    return soft_target(ask(moved), teacher_logits, temperature=1.0)
                return cross_entropy(ask(moved), target)

            drawn = generator if self.random else None
            return pgd(goal, x, eps=self.eps, steps=self.steps, step=self.step, generator=drawn)


@final
@dataclass(frozen=True, slots=True)
class Robustness:
    """Shares of test examples that are answered rightly as they are, and that stay right under an attack."""

    clean: Estimate
    fgsm: Estimate
    pgd: Estimate
    eps: float
    steps: int
    step: float
    restarts: int = 1

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def robust_accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    eps: float,
    steps: int = 20,
    *,
    step: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    device: torch.device | None = None,
) -> Robustness:
    """Accuracy as it is, under FGSM and under PGD with a random start, each with Wilson's interval.

    An example stays right where the plain and every attacked input are answered rightly: the plain one lies in the ball
    too. So no share is above the clean one, and none rises with more starts.

    Args:
        model: (B, …) to logits (B, C), on the device.
        batches: of plain examples, whose view "x" is in [0, 1] and whose targets are labels.
        eps: radius of the ball, ≥ 0.
        steps: of PGD; 20 is usual for judging.
        step: the size of one; None is 2.5 · eps / steps.
        restarts: how many random starts PGD has, ≥ 1; an example must withstand all of them.
        seed: of the random starts.
        device: where the model is; the CPU by default.

    Raises:
        InputError: no examples, mixed ones, inputs outside [0, 1], or an option out of range.
        ModelError: the model does not answer with logits that depend on the inputs.
    """
    _check(eps, steps, step)
    if restarts < 1:
        raise InputError("PGD starts at least once", given=f"restarts={restarts}", expected="a whole number from 1")
    place = device or torch.device("cpu")
    generator = torch.Generator(place).manual_seed(seed)
    right, count = torch.zeros(3, dtype=torch.int64, device=place), 0
    with answering(model) as ask:
        for batch in batches:
            x, labels = batch.inputs["x"].to(place), batch.target.to(place)
            if labels.ndim != 1:
                raise InputError(
                    "mixed examples have no label to be right about", given=f"targets of shape {tuple(labels.shape)}",
                    expected="(B,)", fix="turn mixup and cutmix off",
                )  # fmt: skip

            def goal(moved: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(ask(moved), labels)

            tried = [x, fgsm(goal, x, eps=eps)]
            tried += [pgd(goal, x, eps=eps, steps=steps, step=step, generator=generator) for _ in range(restarts)]
            with torch.no_grad():
                found = torch.stack([ask(one).argmax(-1) == labels for one in tried])
            hits = torch.stack([found[0], found[1], found[2:].all(0)])
            right += (hits & hits[:1]).sum(1)
            count += len(labels)
    if not count:
        raise InputError("nobody was asked", given="no batches", expected="at least one example")
    clean, once, often = (wilson(int(number) / count, count) for number in right)
    size = 2.5 * eps / max(steps, 1) if step is None else step
    return Robustness(clean, once, often, eps, steps, size, restarts)


@contextlib.contextmanager
def answering(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """A model in eval mode as a function of inputs to logits; every part's mode comes back afterwards.

    In train mode each step of an attack would move the statistics of batch norms, and dropout would blur its aim.

    Raises:
        ModelError: an answer is not one row of logits for each input.
    """
    modes = [(module, module.training) for module in model.modules()]

    def ask(x: Tensor) -> Tensor:
        said = model(x)
        logits = said[0] if isinstance(said, tuple) and said else said
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError("the model does not answer with logits", given=shown, expected=f"({len(x)}, C)")
        return logits

    model.eval()
    try:
        with kernels_with_derivatives(model, twice=False):
            yield ask
    finally:
        for module, mode in modes:
            module.training = mode


def _gradient(goal: Goal, x: Tensor) -> Tensor:
    """Of the goal, with respect to the inputs; parameters get none."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = goal(x)
        try:
            return torch.autograd.grad(value, x)[0]
        except RuntimeError as error:
            if "does not require grad" not in str(error) and "not have been used" not in str(error):
                raise
            raise ModelError(
                "the answers of this model do not depend on its inputs through anything that has a gradient",
                given=str(error).partition("\n")[0],
                expected="a model whose operations can all be differentiated, and that was not rounded to int8",
            ) from error


def _check(eps: float, steps: int, step: float | None) -> None:
    if not 0.0 <= eps < math.inf:
        raise InputError("eps is the largest change of a number", given=f"eps={eps}", expected="eps ≥ 0")
    if steps < 0:
        raise InputError("an attack has a number of steps", given=f"steps={steps}", expected="a whole number from 0")
    if step is not None and not 0.0 <= step < math.inf:
        raise InputError("a step has a size", given=f"step={step}", expected="step ≥ 0")
