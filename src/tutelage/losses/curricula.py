"""What gets harder while training goes on: a temperature that learns against the student, a teacher that grows louder.

Shapes:  B batch · C classes · "…" any leading dimensions, each row one example.
Progress is 0 at the first step of training and 1 at the end.
"""

from __future__ import annotations

import math

from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.divergences import divergence
from tutelage.losses.normalised import check_weight
from tutelage.losses.targets import as_float, average, dense, pair, positive
from tutelage.types import Logits

__all__ = ["annealed", "check_progress", "curriculum_temperature"]


def curriculum_temperature(
    student_logits: Tensor,
    teacher_logits: Logits,
    temperature_parameter: Tensor,
    progress: float,
    *,
    start: float = 1.0,
    reach: float = 20.0,
    rise: float = 10 / 240,
    mask: Tensor | None = None,
) -> Tensor:
    """Curriculum temperature (CTKD): soft targets at a T that learns to make them hard; (…, C), (…, C) and () → ().

    Equation:
        T² · mean over rows of KL(softmax(z_t / T) ‖ softmax(z_s / T)),  T = start + reach · σ(θ). The student goes down
        this loss; θ goes up it, with ∂L/∂θ replaced by −λ ∂L/∂θ, λ = (1 − cos(π · min(progress / rise, 1))) / 2

    Use:
        Where nobody knows a good temperature, beside `cross_entropy`. θ is a number that learns along and is never
        exported; it begins where `companion: {initial: 1.0}` says, at T = 15.6 by default. Not with a store that keeps
        a part of the logits: their tail belongs to one temperature. The authors' λ rises for 10 epochs of 240, then
        stays 1.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        temperature_parameter: θ, (), any number; its gradient has the other sign.
        progress: 0 at the first step of training, 1 at the end.
        start: > 0, the least temperature, no unit.
        reach: ≥ 0, how far above it the greatest is.
        rise: > 0, the share of training in which λ goes from 0 to 1.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () nats per example, times T². 0 where both agree. The value does not depend on λ.

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> curriculum_temperature(student, teacher, torch.tensor(0.0), 0.5, reach=6.0)
        tensor(0.9056)

    Reference:
        Li and others 2023, arXiv 2211.16231.
    """
    positive("start", start)
    check_weight("reach", reach)
    positive("rise", rise)
    check_progress(progress)
    if temperature_parameter.numel() != 1 or not temperature_parameter.is_floating_point():
        raise InputError(
            "temperature_parameter is one number",
            given=f"shape {tuple(temperature_parameter.shape)}, {temperature_parameter.dtype}",
            expected="a floating-point tensor of shape ()",
        )
    student, teacher = pair(student_logits, dense(teacher_logits, "curriculum_temperature", mask), mask)
    theta = as_float(temperature_parameter).to(student.dtype).reshape(())
    turned = 0.5 * (1.0 - math.cos(math.pi * min(progress / rise, 1.0)))
    # The value of θ to the bit, and its slope times −λ.
    theta = theta.detach() - turned * (theta - theta.detach())
    temperature = start + reach * theta.sigmoid()
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    return average(divergence(log_p, log_q), mask) * temperature.square()


def annealed(
    student_logits: Tensor,
    teacher_logits: Logits,
    progress: float,
    *,
    levels: int = 10,
    until: float = 0.6,
    mask: Tensor | None = None,
) -> Tensor:
    """Annealing distillation: match a teacher whose logits grow in steps, then nothing; (…, C) and (…, C) → ().

    Equation:
        mean over rows of ‖z_s − Φ z_t‖²,  Φ = 1 / n, 2 / n, …, 1 in n equal parts of training up to `until`; 0 after

    Use:
        Where a teacher is far above its student: a flat answer is matched first. Two phases are two terms, this one and
        {loss: cross_entropy, weight: {schedule: switch, before: 0, after: 1, at: 0.6}} with the same share. Not as a
        measure of agreement: a student that equals its teacher has a loss above 0 while Φ is below 1. One optimizer
        goes through both phases here; starting another one between them is another method.

    Args:
        student_logits: (…, C).
        teacher_logits: (…, C), or top-k with k = C; no gradient reaches it.
        progress: 0 at the first step of training, 1 at the end.
        levels: n ≥ 1, how many steps Φ takes.
        until: the share of training in (0, 1] that matching takes.
        mask: (…) bool, True where a row counts; the others may hold anything.

    Returns:
        () squared logits, summed over classes, per example. 0 where z_s = Φ z_t, and from `until` on. No T².

    Raises:
        InputError: shapes that do not belong together, an option out of range, or a top-k that left classes out.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.2, -1.0]])
        >>> annealed(student, teacher, 0.27, until=0.6)  # Φ = 0.5
        tensor(2.9100)

    Reference:
        Jafari, Rezagholizadeh, Sharma, Ghodsi 2021, arXiv 2104.07163.
    """
    check_progress(progress)
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise InputError("levels is a number of steps", given=f"levels={levels}", expected="1 or more")
    if not 0.0 < until <= 1.0:
        raise InputError("until is a share of training", given=f"until={until}", expected="a number in (0, 1]")
    student, teacher = pair(student_logits, dense(teacher_logits, "annealed", mask), mask)
    if progress >= until:
        # A zero that still has a graph, whatever the logits are.
        return student[..., :0].sum()
    # The least that a quotient of two decimals may be off must not hold a step back.
    level = min(1 + math.floor(levels * progress / until + 1e-9), levels)
    return average((student - (level / levels) * teacher).square().sum(-1), mask)


def check_progress(progress: float) -> None:
    """Require a share of training.

    Raises:
        InputError: it is not.
    """
    if not 0.0 <= progress <= 1.0:
        raise InputError("progress is a share of training", given=f"progress={progress}", expected="a number in [0, 1]")
