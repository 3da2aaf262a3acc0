"""A model that carries its own preprocessing.

Teacher and student may want differently scaled inputs. So the mean and the deviation belong to the model: they are
buffers, they are saved, loaded, exported and moved with the weights, and everybody feeds plain inputs in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError

__all__ = ["Classifier", "Normalise"]


@final
class Normalise(nn.Module):
    """(x − mean) / std, per channel of an image, per feature of anything else."""

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, input_shape))
        self.register_buffer("std", _per_channel("std", std, input_shape))
        if not bool((self.std > 0).all()):
            raise InputError("a standard deviation is positive", given=list(std), expected="numbers > 0")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@final
class Classifier(nn.Module):
    """Inputs (B, *input_shape) float32, or tokens (B, L) int64, to logits (B, classes): normalisation, then the net.

    `notices` says in plain words what was done while building it that the user should know.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        vocabulary: int = 0,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.classes = classes
        self.vocabulary = vocabulary
        self.notices: list[str] = []
        self.normalise = Normalise((1,) if vocabulary else self.input_shape, mean, std)
        self.net = net
        self.order: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        # Tokens are names, not quantities: there is nothing to scale.
        logits: Tensor = self.net(x if self.vocabulary else self.normalise(x))
        return logits if self.order is None else logits[..., self.order]

    def reorder(self, order: Sequence[int]) -> None:
        """Answer class k with the net's output `order[k]`; not saved with the weights, which stay as they were."""
        if sorted(order) != list(range(self.classes)):
            raise InputError("an order holds every class once", given=list(order))
        del self.order
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)


def _per_channel(name: str, values: Sequence[float], input_shape: tuple[int, ...]) -> Tensor:
    image = len(input_shape) == 3
    count = input_shape[0] if image else input_shape[-1]
    if len(values) not in (1, count) or not all(math.isfinite(value) for value in values):
        raise InputError(
            f"`{name}` does not fit examples of shape {input_shape}",
            given=f"{len(values)} values" if len(values) not in (1, count) else list(values),
            expected=f"1 or {count} finite numbers" if count > 1 else "1 finite number",
        )
    # One value a channel always, so that a saved model has the same shapes however its mean was given.
    vector = torch.tensor([float(value) for value in values]).expand(count).clone()
    return vector.reshape(count, 1, 1) if image else vector
