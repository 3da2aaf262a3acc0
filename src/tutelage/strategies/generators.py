"""A small net that turns noise into inputs, and learns with an optimizer that a checkpoint can hold.

Shapes:  B batch · Z numbers of noise · C channels · H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import InputError

__all__ = ["Generator", "Learner"]


@final
class Generator(nn.Module):
    """Noise (B, Z) to inputs (B, *shape): pictures in [0, 1], anything else spread about `mean` by `std`.

    A picture grows from a quarter of its side in two steps, each doubled by its nearest neighbours and smoothed by a
    convolution, since a transposed convolution leaves a pattern of squares.

    Args:
        shape: of one input.
        noise: Z.
        width: channels of the coarse picture, or half the units of a hidden layer.
        mean, std: for inputs that are no pictures: numbers, or tensors that broadcast with one input.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        noise: int = 64,
        width: int = 32,
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        if not shape or min(shape) < 1 or noise < 1 or width < 2:
            raise InputError("no such generator", given=f"shape {tuple(shape)}, noise {noise}, width {width}")
        self.shape, self.noise, self.picture = tuple(shape), noise, len(shape) == 3
        self.coarse: nn.BatchNorm1d | nn.BatchNorm2d
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).clone())
        if self.picture:
            channels, height, tall = self.shape
            self.sizes = [(-(-height // part), -(-tall // part)) for part in (4, 2, 1)]
            self.first = nn.Linear(noise, width * math.prod(self.sizes[0]), bias=False)
            self.coarse = nn.BatchNorm2d(width)
            self.finer = nn.ModuleList([_smooth(width, width), _smooth(width, width // 2)])
            self.last = nn.Sequential(nn.Conv2d(width // 2, channels, 3, padding=1), nn.BatchNorm2d(channels))
        else:
            self.first = nn.Linear(noise, 2 * width, bias=False)
            self.coarse = nn.BatchNorm1d(2 * width)
            self.finer = nn.ModuleList()
            self.last = nn.Sequential(
                nn.LeakyReLU(0.2), nn.Linear(2 * width, 2 * width, bias=False), nn.BatchNorm1d(2 * width),
                nn.LeakyReLU(0.2), nn.Linear(2 * width, math.prod(self.shape)), nn.BatchNorm1d(math.prod(self.shape)),
            )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        x: Tensor = self.first(noise)
        if not self.picture:
            x = self.last(self.coarse(x)).reshape(len(noise), *self.shape)
            return self.mean + self.std * x
        x = self.coarse(x.reshape(len(noise), -1, *self.sizes[0]))
        for size, layer in zip(self.sizes[1:], self.finer, strict=True):
            x = layer(F.interpolate(x, size=size, mode="nearest"))
        seen: Tensor = self.last(x)
        return seen.sigmoid()


@final
class Learner(nn.Module):
    """A module with its Adam, whose moments are part of its state: what a checkpoint keeps, it keeps whole.

    Args:
        module: to learn.
        lr: the learning rate.
    """

    def __init__(self, module: nn.Module, lr: float) -> None:
        super().__init__()
        self.module = module
        self._optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.5, 0.999))

    @property
    def parameters_list(self) -> list[nn.Parameter]:
        """All that learns."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def learn(self, loss: Tensor, rate: float) -> float:
        """One step down a loss, at this learning rate; the norm of the gradient comes back.

        Nothing but the module is given a gradient, whatever else lies on the way to it.
        """
        parameters = self.parameters_list
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))

    def get_extra_state(self) -> Tensor:
        """Step, first and second moment of every parameter, in one row; zeros where no step was taken."""
        parts: list[Tensor] = []
        for parameter in self.parameters_list:
            state = self._optimizer.state.get(parameter)
            if not state:
                parts.append(torch.zeros(1 + 2 * parameter.numel()))
                continue
            kept = (state["step"], state["exp_avg"], state["exp_avg_sq"])
            parts += [value.detach().float().cpu().reshape(-1) for value in kept]
        return torch.cat(parts)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up what `get_extra_state` told."""
        at = 0
        for parameter in self.parameters_list:
            count = parameter.numel()
            step, first, second = torch.split(state[at : at + 1 + 2 * count], [1, count, count])
            at += 1 + 2 * count
            self._optimizer.state[parameter] = {
                "step": step[0].clone(),
                "exp_avg": torch.empty_like(parameter).copy_(first.view_as(parameter)),
                "exp_avg_sq": torch.empty_like(parameter).copy_(second.view_as(parameter)),
            }


def _smooth(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2))
