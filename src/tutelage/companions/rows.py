"""Features of any kind as one row for each example."""

from __future__ import annotations

from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import as_float

__all__ = ["averaged"]


def averaged(feature: Tensor) -> Tensor:
    """The mean over places of (B, C, H, W), or over tokens of (B, T, D); rows (B, D) in single precision or better.

    Raises:
        InputError: something else.
    """
    if feature.ndim not in (2, 3, 4):
        raise InputError(
            "the output of this layer has neither places nor tokens to take the mean of",
            given=f"shape {tuple(feature.shape)}",
            expected="(B, D), (B, T, D) or (B, C, H, W)",
        )
    feature = as_float(feature)
    return feature.mean((2, 3)) if feature.ndim == 4 else feature.mean(1) if feature.ndim == 3 else feature
