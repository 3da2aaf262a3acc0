"""The last linear layer of a classifier, for students that learn through their teacher's eyes."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from tutelage.types import Outputs

__all__ = ["head_of"]


def head_of(module: object, answer: Outputs | None) -> nn.Linear | None:
    """A frozen copy of the last linear layer of a model, with its rows in the order of the answered classes.

    Args:
        module: a model, or anything else, which has none.
        answer: what it says to a batch, which tells how many classes there are.

    Returns:
        (D) → (C); None where no linear layer puts out one number for each class.
    """
    if not isinstance(module, nn.Module) or answer is None or not isinstance(answer.logits, Tensor):
        return None
    classes = answer.logits.shape[-1]
    found = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer.out_features == classes]
    if not found:
        return None
    head = copy.deepcopy(found[-1]).requires_grad_(False)
    order = getattr(module, "order", None)
    if isinstance(order, Tensor):
        head.weight.data = head.weight.data[order]
        if head.bias is not None:
            head.bias.data = head.bias.data[order]
    return head
