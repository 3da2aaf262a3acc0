"""How many rows a check may afford: it must end within half a minute, however large the models are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tutelage.evaluation.cost import multiply_adds

__all__ = ["affordable"]

# So many times the multiply-adds of a second of one CPU core are done in the same time by an accelerator.
_ACCELERATOR = 100.0


def affordable(models: Sequence[tuple[nn.Module, int]], two: Tensor, budget: float) -> int:
    """Rows that some models can go through for a budget.

    Args:
        models: each with how often a row passes through it; a backward pass counts twice.
        two: two examples, on the models' device.
        budget: multiply-adds in all on a CPU; one core does some 3 · 10¹⁰ in a second.
    """
    each = sum(multiply_adds(model, two) // 2 * passes for model, passes in models)
    return int(budget * (1.0 if two.device.type == "cpu" else _ACCELERATOR) / max(each, 1))
