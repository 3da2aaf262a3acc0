"""Any loss that is a mean over rows, computed a chunk of rows at a time: the same value, a fraction of the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.errors import InputError
from tutelage.losses.logits import dist
from tutelage.types import TopK

__all__ = ["COUPLED", "chunked"]

# Losses in which a row's value depends on the other rows.
COUPLED: frozenset[Callable[..., Tensor]] = frozenset({dist})


def chunked(loss: Callable[..., Tensor], rows: int) -> Callable[..., Tensor]:
    """The same loss, computed for `rows` rows at a time and recomputed in the backward pass.

    Args:
        loss: takes tensors whose first dimension is the row, and `mask`; averages over rows.
        rows: how many at a time, ≥ 1.

    Raises:
        InputError: rows is below 1, or the loss looks across rows.

    Example:
        >>> import torch
        >>> from tutelage.losses import soft_target
        >>> student, teacher = torch.arange(12.0).view(6, 2), torch.zeros(6, 2)
        >>> bool(torch.isclose(chunked(soft_target, 4)(student, teacher), soft_target(student, teacher)))
        True
    """
    if rows < 1:
        raise InputError("a chunk has at least one row", given=f"rows={rows}")
    if loss in COUPLED:
        raise InputError(
            f"{loss.__name__} compares rows with each other, so it cannot be computed in chunks",
            fix="use it whole, or choose another loss",
        )

    def whole(*inputs: Tensor | TopK, mask: Tensor | None = None, **options: Any) -> Tensor:
        first = inputs[0]
        assert isinstance(first, Tensor)
        count = first.shape[0]
        total: Tensor = torch.zeros((), dtype=torch.float32, device=first.device)
        number: Tensor | int = 0
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            some = None if mask is None else mask[part]
            size = (
                int(first[part].numel() // first.shape[-1]) if some is None else some.sum()
            )  # rows that count, over all leading dimensions
            sliced = [_part(one, part) for one in inputs]
            value = checkpoint(loss, *sliced, use_reentrant=False, mask=some, **options)
            total = total + value * size
            number = number + size
        return total / (torch.as_tensor(number).clamp(min=1) if mask is not None else max(int(number), 1))

    whole.__name__ = f"chunked_{loss.__name__}"
    return whole


def _part(value: Tensor | TopK, part: slice) -> Tensor | TopK:
    if isinstance(value, Tensor):
        return value[part]
    return TopK(value.values[part], value.indices[part], value.tail[part], value.classes, value.temperature)
