"""Fewer blocks: a chain of equal blocks, of which some are left out or neighbours are averaged into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.compress.steps import keep_blocks
from tutelage.errors import InputError, ModelError

__all__ = ["Thin", "thin"]


@final
@dataclass(frozen=True, slots=True)
class Thin:
    """Which blocks of a chain are left; one of the three.

    Args:
        keep: the blocks by number, from 0.
        every: the first of every so many, as DistilBERT begins (Sanh et al. 2019, arXiv 1910.01108).
        average: the mean of every so many neighbours.
        at: the chain's path; None takes the longest chain of equal blocks.

    Raises:
        InputError: not one of the three, or a number that cannot be.
    """

    keep: Sequence[int] | None = None
    every: int | None = None
    average: int | None = None
    at: str | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.keep, self.every, self.average)) != 1:
            raise InputError("blocks are left out in one way", expected="one of keep, every, average")
        number = self.every or self.average or 2
        if number < 2 or (self.keep is not None and (not self.keep or len(set(self.keep)) < len(self.keep))):
            raise InputError(
                "blocks cannot be left out like this",
                given=str(self),
                expected="numbers, each once; every or average ≥ 2",
            )


def thin(module: nn.Module, how: Thin) -> dict[str, Any]:
    """Leave blocks of a chain out, in place.

    Returns:
        The step by which the plain net is thinned likewise; see `steps.rebuilt`.

    Raises:
        ModelError: there is no chain of equal blocks, or no such block in it.
    """
    at = _chain(module) if how.at is None else _checked(module, how.at)
    blocks = list(module.get_submodule(at).children())
    every = how.every or how.average
    keep = sorted(how.keep) if how.keep is not None else list(range(0, len(blocks), every or 1))
    if how.average is not None:
        for first in keep:
            _mean(blocks[first : first + how.average])
    keep_blocks(module, at, keep)
    return {"how": "blocks", "at": at, "keep": keep}


def _chain(module: nn.Module) -> str:
    """The path of the longest chain of equal blocks; of equally long ones the first."""
    chains = {
        path: len(layer)
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Sequential, nn.ModuleList)) and path and _equal(layer)
    }
    if not chains:
        raise ModelError(
            "this model has no chain of equal blocks, of which some could be left out",
            expected="a Sequential or ModuleList of blocks of the same kind and shapes, such as a transformer's",
            fix="prune it or lower its rank instead",
        )
    longest: str = max(chains, key=lambda path: chains[path])
    return longest


def _equal(chain: nn.Module) -> bool:
    blocks = list(chain.children())
    looks = [(type(block), {name: value.shape for name, value in block.state_dict().items()}) for block in blocks]
    return len(blocks) > 1 and bool(looks[0][1]) and all(look == looks[0] for look in looks)


def _checked(module: nn.Module, at: str) -> str:
    try:
        chain = module.get_submodule(at)
    except AttributeError as error:
        raise ModelError(f"the model has no layer `{at}`", where="layers.at") from error
    if not isinstance(chain, (nn.Sequential, nn.ModuleList)):
        raise ModelError(f"`{at}` is no chain of blocks", given=type(chain).__name__, expected="Sequential, ModuleList")
    return at


@torch.no_grad()
def _mean(blocks: Sequence[nn.Module]) -> None:
    """Write the mean of all blocks into the first; whole numbers, such as counts, stay the first's."""
    states = [block.state_dict() for block in blocks]
    for name, value in states[0].items():
        others: list[Tensor] = [state[name] for state in states]
        if value.is_floating_point():
            if any(other.shape != value.shape for other in others):
                raise ModelError("blocks of other shapes have no mean", given=name, fix="use keep or every")
            value.copy_(torch.stack(others).mean(0))
