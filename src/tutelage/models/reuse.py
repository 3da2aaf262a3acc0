"""A student that ends in its teacher's last layer: its own layers, a projector, and the teacher's classifier (SimKD).

Shapes:  B batch · C channels · H, W height and width · D channels of the teacher's map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.types import Logits

__all__ = ["check_read"]

# How far apart the teacher's logits and its last layer's may be, as a share of their range: what half precision and
# eight bits in a store round.
_CLOSE = 0.05


def check_read(head: nn.Linear | None, feature: Tensor, logits: Logits) -> nn.Linear:
    """The teacher's last layer, once it is seen to be what makes its logits of a feature averaged over places.

    Args:
        head: the layer; see `models.heads.head_of`.
        feature: (B, D) or (B, D, H, W), what the teacher's layer put out.
        logits: (B, C) what the teacher answered to the same examples.

    Raises:
        ModelError: it is not known, or it makes other logits of this feature.
    """
    if head is None or not isinstance(logits, Tensor):
        raise ModelError(
            "the teacher's last linear layer is not known",
            expected="one torch module that ends in nn.Linear, and all of its logits",
            fix="use one live teacher or a store that keeps all logits, or another loss",
        )
    pooled = feature.mean((2, 3)) if feature.ndim == 4 else feature
    if pooled.ndim != 2 or pooled.shape[1] != head.in_features:
        raise ModelError(
            "the teacher's last layer does not read this layer",
            given=f"a feature (B, {', '.join(map(str, feature.shape[1:]))})",
            expected=f"(B, {head.in_features}) or (B, {head.in_features}, H, W)",
            fix="name the teacher's layer right in front of its last one, or of the mean over places before that",
        )
    with torch.no_grad():
        bias = None if head.bias is None else head.bias.float()
        found = F.linear(pooled.float(), head.weight.float(), bias)
        told = logits.float()
        error, spread = float((found - told).abs().max()), float(told.max() - told.min())
    if not error <= _CLOSE * spread:
        raise ModelError(
            "the teacher's last layer makes other logits of this layer than the teacher does",
            given=f"logits up to {error:.3g} apart, on a range of {spread:.3g}",
            expected="what the last layer reads, as it is or before the mean over places",
            fix="name the teacher's layer right in front of its last one, or of the mean over places before that",
        )
    return head
