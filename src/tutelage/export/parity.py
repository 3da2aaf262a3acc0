"""Whether a file answers as the model does that it was made from: on real examples, in batches of several sizes.

Rows are compared between sizes too. A quantised model may be right on average and wrong in single rows, and right in
batches of one size and wrong in those of another. Each of several tasks has a best class of its own, and the task with
the lowest share counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.errors import GateError
from tutelage.export.facts import Facts, Inputs, Runner
from tutelage.export.tasks import shares_of
from tutelage.tasks import IMPOSSIBLE

__all__ = ["BATCHES", "LEAST", "Parity", "compare", "gate"]

BATCHES = (1, 7, 32)
LEAST = 256  # examples
_EXACT = 1e-3  # of the spread of the model's logits: rounding, not another answer
_AGREEMENT = {True: 0.995, False: 0.95}  # of an exact format, of a quantised one
_ALIKE = {True: 0.995, False: 0.98}  # between sizes of batches


@final
@dataclass(frozen=True, slots=True)
class Parity:
    """How a file compares with its model.

    Args:
        examples: how many were asked about.
        batches: in batches of these sizes.
        difference: the largest difference between two logits.
        spread: the standard deviation of the model's logits, which the difference is to be seen beside.
        agreement: share of examples with the same best class, at the worst size, of several tasks in the worst one.
        alike: the same share between any two sizes, at worst.
        between: the largest difference of a logit between two sizes.
        accuracy: of the file, at the worst size; None where no labels are known.
        model_accuracy: of the model.
    """

    examples: int
    batches: tuple[int, ...]
    difference: float
    spread: float
    agreement: float
    alike: float
    between: float
    accuracy: float | None = None
    model_accuracy: float | None = None

    @property
    def words(self) -> str:
        """One line for a person."""
        said = f"largest difference {self.difference:.2g} (logits spread by {self.spread:.2g}), "
        said += f"{self.agreement:.2%} the same class"
        if self.accuracy is not None and self.model_accuracy is not None:
            said += f", accuracy {self.accuracy:.2%} for {self.model_accuracy:.2%}"
        return f"{said}; {self.examples} examples in batches of {', '.join(map(str, self.batches))}"


def compare(
    model: nn.Module, runner: Runner, inputs: Tensor, targets: Tensor | None = None, facts: Facts | None = None
) -> Parity:
    """Ask both about the same examples.

    Args:
        model: maps (B, …) to logits (B, C); asked in eval mode, in one batch size only, since it is the reference.
        runner: the file.
        inputs: (N, …) float32 in [0, 1], or int64 tokens.
        targets: (N,) labels; of several tasks there are none.
        facts: of the model, which say of several tasks whose logits are whose; None where there is one task.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        reference = torch.cat([model(part) for part in torch.split(inputs, max(BATCHES))]).double().numpy()
    model.train(was_training)
    answers = [_asked(runner, inputs.numpy(), size) for size in BATCHES]
    shares = {} if facts is None else shares_of(facts)
    tasks = [share.columns for share in shares.values()] or [slice(None)]
    best, *classes = ([one[:, task].argmax(-1) for task in tasks] for one in (reference, *answers))
    pairs = [(i, j) for i in range(len(answers)) for j in range(i)]
    labels = None if targets is None else targets.numpy()
    return Parity(
        len(inputs), BATCHES, max(_largest(one, reference) for one in answers), _spread(reference, facts),
        min(_same(one, best) for one in classes),
        min(_same(classes[i], classes[j]) for i, j in pairs),
        max(_largest(answers[i], answers[j]) for i, j in pairs),
        None if labels is None else min(float((one[0] == labels).mean()) for one in classes),
        None if labels is None else float((best[0] == labels).mean()),
    )  # fmt: skip


def gate(parity: Parity, *, exact: bool, max_drop: float | None = None, what: str) -> None:
    """Refuse a file that does not answer as its model does.

    Args:
        parity: what was found.
        exact: whether the format computes with the model's own numbers, so that only rounding may differ.
        max_drop: the accuracy that it may lose, as a share; None does not ask.
        what: the file, for the message.

    Raises:
        GateError: with the numbers.
    """
    faults = []
    if not np.isfinite(parity.difference):
        faults.append("it answers with numbers that are not finite")
    elif exact and parity.difference > _EXACT * max(parity.spread, 1e-6):
        faults.append(f"logits differ by {parity.difference:.3g}, where they spread by {parity.spread:.3g}")
    if parity.agreement < _AGREEMENT[exact]:
        faults.append(f"only {parity.agreement:.2%} of examples get the same class")
    if parity.alike < _ALIKE[exact]:
        faults.append(f"an example's class depends on the batch it comes in: {parity.alike:.2%} are alike")
    drop = None if parity.accuracy is None else (parity.model_accuracy or 0.0) - parity.accuracy
    if max_drop is not None and drop is not None and drop > max_drop:
        faults.append(f"accuracy falls by {drop:.2%}, more than the {max_drop:.2%} that --max-drop allows")
    if faults:
        raise GateError(
            f"{what} does not answer as its model does: {'; '.join(faults)}", given=parity.words,
            expected="the same answers, but for rounding" if exact else "nearly the same answers",
            fix="nothing was kept; choose another format, or for int8 more calibration examples",
        )  # fmt: skip


def _asked(runner: Runner, inputs: Inputs, size: int) -> NDArray[np.float64]:
    parts = [runner(inputs[start : start + size]) for start in range(0, len(inputs), size)]
    return np.concatenate(parts).astype(np.float64)


def _same(one: Sequence[NDArray[np.int64]], other: Sequence[NDArray[np.int64]]) -> float:
    """The share of examples with the same class, in the task where it is least."""
    return min(float((a == b).mean()) for a, b in zip(one, other, strict=True))


def _spread(reference: NDArray[np.float64], facts: Facts | None) -> float:
    """Of questions without the places where no answer can be, whose logits are one number far away from all others."""
    if facts is not None and facts.separator:
        reference = reference[reference > IMPOSSIBLE / 2]
    return float(reference.std())


def _largest(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(one - other).max())
