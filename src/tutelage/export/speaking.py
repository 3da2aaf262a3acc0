"""An artifact as a torch module, for whatever asks modules: judging, timing, comparing."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from tutelage.export.facts import Runner

__all__ = ["RunnerModule"]


@final
class RunnerModule(nn.Module):
    """Asks a runner. It has no weights that torch knows of, and nothing can be learned through it."""

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, …) float32, or int64 tokens, on the CPU → logits (B, C)."""
        return torch.from_numpy(self.runner(inputs.numpy()))
