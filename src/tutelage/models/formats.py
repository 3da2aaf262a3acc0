"""The same weights in fewer bytes: half precision, or eight bits with a scale for every output channel.

A format changes the file, not the arithmetic: what is loaded computes in float32 again, so it is smaller on disk and as
fast as before. An int8 tensor `w` stands beside `w.scale`, and its values are `w · scale`, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tutelage.errors import DamagedError, InputError

__all__ = ["FORMATS", "pack", "unpack"]

_SCALE = ".scale"
_LEVELS = 127  # symmetric: −127 … 127, so that 0 stays 0


def pack(tensors: Mapping[str, Tensor], how: str) -> dict[str, Tensor]:
    """Weights in a format, a key of `FORMATS`.

    Raises:
        InputError: no such format, or a weight is too large for it.
    """
    if how not in FORMATS:
        raise InputError(f"no format `{how}`", expected="one of " + ", ".join(FORMATS))
    packed = FORMATS[how](tensors)
    for name, tensor in packed.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            most = float(tensors[name.removesuffix(_SCALE)].abs().max())
            raise InputError(f"the weights do not fit into {how}", given=f"{name} goes up to {most:.3g}")
    return packed


def unpack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights as they are computed with, and what was done to them; other tensors are passed through.

    Raises:
        DamagedError: a scale does not belong to its weights.
    """
    eight = {name for name, tensor in tensors.items() if tensor.dtype is torch.int8 and name + _SCALE in tensors}
    if not eight:
        return dict(tensors), []
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in eight:
            scale = tensors[name + _SCALE]
            if scale.shape != tensor.shape[:1] or not scale.is_floating_point():
                raise DamagedError(
                    f"the scales of {name} do not belong to it",
                    given=f"{scale.dtype} {tuple(scale.shape)}", expected=f"floats ({tensor.shape[0]},)",
                )  # fmt: skip
            found[name] = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
        elif name.removesuffix(_SCALE) not in eight:
            found[name] = tensor
    return found, [f"{len(eight)} tensors of weights in int8 were multiplied by their scales"]


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every float32 tensor in 16 bits: 11 bits of precision, up to 65,504."""
    return {name: t.half() if t.dtype is torch.float32 else t for name, t in tensors.items()}


def _eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in 8 bits with one scale per output channel, max|w| / 127; the small rest stays float32."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype is not torch.float32 or tensor.ndim < 2 or tensor.numel() < 2 * len(tensor):
            packed[name] = tensor
            continue
        rows = tensor.flatten(1)
        scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LEVELS
        packed[name] = (rows / scale[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8).reshape(tensor.shape)
        packed[name + _SCALE] = scale
    return packed


FORMATS: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {"fp16": _half, "int8": _eight_bits}
