"""Any loss that is a mean over rows, computed a chunk of rows at a time: the same value, a fraction of the memory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.errors import InputError
from tutelage.losses.scale_free import dist
from tutelage.losses.targets import check_mask
from tutelage.losses.temperatures import multi_level
from tutelage.types import Sampled, TopK

__all__ = ["COUPLED", "chunked"]

# Losses in which a row's value depends on the other rows.
COUPLED: tuple[Callable[..., Tensor], ...] = (dist, multi_level)


def chunked(loss: Callable[..., Tensor], rows: int) -> Callable[..., Tensor]:
    """The same loss, computed for `rows` rows at a time and recomputed in the backward pass.

    Args:
        loss: takes tensors that share their leading dimensions and `mask`, and averages over rows. Its positional
            arguments are cut into chunks, its keywords are passed on whole.
        rows: how many at a time, ≥ 1.

    Returns:
        A function with the loss's own name and signature. What it needs at once, beside its inputs and their gradient,
        is what the loss needs for one chunk.

    Raises:
        InputError: rows is below 1, or the loss compares rows with each other.

    Example:
        >>> import torch
        >>> from tutelage.losses import soft_target
        >>> student, teacher = torch.arange(12.0).view(6, 2), torch.zeros(6, 2)
        >>> bool(torch.isclose(chunked(soft_target, 4)(student, teacher), soft_target(student, teacher)))
        True
    """
    inner: Any = loss
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", str(inner))
    if rows < 1:
        raise InputError("a chunk has at least one row", given=f"rows={rows}", expected="rows ≥ 1")
    if any(need.endswith(("_feature", "_features", "_members")) for need in inspect.signature(loss).parameters):
        raise InputError(
            f"{name} reads what is not cut into chunks", given=f"chunked({name}, {rows})",
            expected="a loss on logits", fix="use it whole",
        )  # fmt: skip
    if any(inner is coupled for coupled in COUPLED):
        raise InputError(
            f"{name} compares rows with each other, so it cannot be computed in chunks",
            given=f"chunked({name}, {rows})",
            expected="a loss whose value is a mean over rows",
            fix="use it whole, or choose another loss",
        )

    @functools.wraps(loss)
    def whole(*inputs: Tensor | TopK | Sampled, mask: Tensor | None = None, **options: Any) -> Tensor:
        if not inputs:
            raise InputError(
                f"{name} in chunks takes its tensors by position", expected=f"chunked({name}, …)(logits, …)"
            )
        leading = _rows(inputs[0])
        count = leading.numel()
        if count <= rows:
            return loss(*inputs, mask=mask, **options)
        columns = [_cut(one, leading, rows) for one in inputs]
        counted = torch.ones(leading, dtype=torch.bool, device=_device(inputs[0])) if mask is None else mask
        check_mask(counted, leading)
        total: Tensor | float = 0.0
        for *parts, some in zip(*columns, torch.split(counted.reshape(-1), rows), strict=True):
            value = checkpoint(loss, *parts, use_reentrant=False, mask=None if mask is None else some, **options)
            total = total + value * some.sum()
        assert isinstance(total, Tensor)
        return total / counted.sum().clamp(min=1)

    whole.__name__ = name
    return whole


def _device(value: Tensor | TopK | Sampled) -> torch.device:
    return value.device if isinstance(value, Tensor) else value.indices.device


def _rows(value: Tensor | TopK | Sampled) -> torch.Size:
    return (value if isinstance(value, Tensor) else value.indices).shape[:-1]


def _cut(value: Tensor | TopK | Sampled, leading: torch.Size, rows: int) -> Sequence[Tensor | TopK | Sampled]:
    """Chunks of rows, whatever leading dimensions the rows stand in.

    `split` gives its chunks' gradients back in one piece; slices would each make a whole tensor of zeros for theirs.
    """
    if isinstance(value, TopK):
        cut = [_cut(one, leading, rows) for one in (value.values, value.indices, value.tail)]
        return [TopK(v, i, t, value.classes, value.temperature) for v, i, t in zip(*cut, strict=True)]
    if isinstance(value, Sampled):
        halves = [_cut(one, leading, rows) for one in (value.indices, value.weights)]
        return [Sampled(i, w, value.classes, value.temperature) for i, w in zip(*halves, strict=True)]
    if value.shape[: len(leading)] != leading:
        raise InputError(
            "the inputs of a chunked loss do not have the same rows",
            given=f"{tuple(value.shape)} beside rows {tuple(leading)}",
            expected=f"a shape that begins with {tuple(leading)}",
        )
    return torch.split(value.reshape(-1, *value.shape[len(leading) :]), rows)
