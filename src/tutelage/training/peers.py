"""What an arm's peers say: at this very step, or as they were; one by one, or as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tutelage.companions import outputs_of
from tutelage.distiller import Asked
from tutelage.errors import InputError
from tutelage.objective import read_view
from tutelage.sources import Peers, Source
from tutelage.teachers.combining import mean_logits, mean_probabilities
from tutelage.training.arm import Arm
from tutelage.types import Batch, Outputs

__all__ = ["combined", "groups", "heard"]

_READ_LABELS = ("best", "least_logits")


def groups(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that listen to each other, who go through a step together; all others by themselves, in the given order."""
    found: list[list[Arm]] = []
    placed: set[str] = set()
    by_name = {arm.name: arm for arm in arms}
    for arm in arms:
        if arm.name not in placed:
            group = [arm, *(by_name[name] for name in arm.peers if name in by_name and name not in placed)]
            placed |= {one.name for one in group}
            found.append(group)
    return found


def heard(arm: Arm, asked: Mapping[str, Asked], arms: Mapping[str, Arm]) -> dict[Source, list[Outputs]]:
    """What an arm hears of its peers at one step, all of it without a graph.

    Args:
        arm: who listens.
        asked: what the arms of its group said to this batch.
        arms: all arms by name; one that has stopped answers as it is.

    Raises:
        InputError: the way in which peers are combined needs labels that examples have not.
    """
    batch, found = asked[arm.name].batch, dict[Source, list[Outputs]]()
    for source in arm.distiller.objective.sources:
        if isinstance(source, Peers):
            if batch.labelled is not None and source.how in _READ_LABELS:
                raise InputError(
                    f"peers are combined by `{source.how}`, which reads labels, but some examples have none",
                    fix="combine peers by `mean_logits`, or label all examples",
                )
            said = [_said(arms[name], asked.get(name), batch, source.every) for name in arm.peers]
            own = _logits(asked[arm.name].student)
            found[source] = [Outputs(one) for one in combined(source.how, own, said, batch.target)]
    return found


def combined(how: str, own: Tensor, others: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """Peers' logits as a loss reads them, one by one or as one.

    Args:
        how: a key of `words.COMBINED`.
        own: (B, C) the listener's own logits, without a graph.
        others: (B, C) of each peer.
        target: (B,) labels, or (B, C) probabilities.

    Raises:
        InputError: the form needs labels, and examples are mixed.
    """
    if how == "each":
        return list(others)
    stack = torch.stack([own, *others]).float()  # (M, B, C)
    equal = stack.new_full((len(stack),), 1.0 / len(stack))
    if how == "mean_logits":
        return [mean_logits(stack, equal)]
    if how == "mean_probabilities":
        return [mean_probabilities(stack, equal, 1.0)]
    if how == "best":
        shares = target if target.ndim > 1 else torch.nn.functional.one_hot(target, stack.shape[-1])
        losses = -(shares * stack.log_softmax(-1)).sum(-1)  # (M, B)
        return [stack[losses.argmin(0), torch.arange(len(target), device=target.device)]]
    if target.ndim > 1:
        raise InputError(
            "the least of all logits is taken beside the label's, but mixed examples have none",
            fix="turn mixup and cutmix off, or combine peers by `mean_logits`",
        )
    index = target.view(1, -1, 1).expand(len(stack), -1, 1)
    return [(stack - stack.gather(-1, index)).amin(0)]


def _said(peer: Arm, asked: Asked | None, batch: Batch, every: int) -> Tensor:
    if every > 1:
        return _logits(peer.stale[every].answer(batch))
    if asked is not None:
        return _logits(asked.student)
    peer.student.eval()
    with torch.no_grad():
        return _logits(outputs_of(peer.student(read_view(batch, peer.distiller.view))))


def _logits(outputs: Outputs) -> Tensor:
    assert isinstance(outputs.logits, Tensor)
    return outputs.logits.detach()
