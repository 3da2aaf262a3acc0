"""One layer as two thinner ones: the truncated singular value decomposition of its weight.

    W (o, i) ≈ U_r (o, r) · V_r (r, i)         r (o + i) numbers in place of o · i

A convolution's weight is read as a matrix (out, in · kernel): its first factor is a convolution to r channels, its
second one of 1×1 (Denton et al. 2014, arXiv 1404.0736; Zhang et al. 2016, arXiv 1505.06798).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from tutelage.compress.masks import maskable
from tutelage.compress.steps import Factored, factored_pair
from tutelage.errors import InputError, ModelError, nearest

__all__ = ["Rank", "lower_rank"]

# These read the weights of layers inside them instead of calling the layers.
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@final
@dataclass(frozen=True, slots=True)
class Rank:
    """How far the rank of layers goes down.

    Args:
        to: what is left, in (0, 1).
        of: "parameters", of the whole model; or "energy", of each layer's squared singular values.
        layers: paths or patterns; a path means everything inside as well.

    Raises:
        InputError: a value that cannot be.
    """

    to: float
    of: Literal["parameters", "energy"] = "parameters"
    layers: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        if not 0 < self.to < 1 or self.of not in ("parameters", "energy"):
            raise InputError(
                "a rank cannot be lowered like this", given=f"to {self.to:g} of {self.of}",
                expected="a share in (0, 1) of parameters or energy",
            )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A layer's weight as a matrix, and its singular values."""

    layer: Factored
    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def cost(self) -> int:
        """Numbers for every rank."""
        return self.left.shape[0] + self.right.shape[1]

    @property
    def whole(self) -> int:
        return self.left.shape[0] * self.right.shape[1]

    @property
    def most(self) -> int:
        """The greatest rank that saves something; 0 where none does."""
        return (self.whole - 1) // self.cost

    @property
    def shares(self) -> Tensor:
        """Of the squared singular values, that of each."""
        squared = self.values.double().square()
        return squared / squared.sum().clamp(min=torch.finfo(torch.float64).tiny)

    def numbers(self, rank: int) -> int:
        """How many it takes at a rank; as it is, where that is fewer."""
        return rank * self.cost if rank <= self.most else self.whole


def lower_rank(module: nn.Module, how: Rank, few: Tensor) -> dict[str, Any]:
    """Put two factors in the place of layers where that saves numbers, in place.

    Args:
        module: (B, …) -> (B, outputs), in evaluation mode.
        how: how far.
        few: two examples or so, by which it is tried which layers their model can do without.

    Returns:
        The step by which the plain net gets the same shapes; see `steps.rebuilt`.

    Raises:
        ModelError: no such layer, none that can be factored, or the share cannot be reached.
    """
    cuts = {path: _cut(layer) for path, layer in _chosen(module, how.layers, few).items()}
    ranks = _by_energy(cuts, how.to) if how.of == "energy" else _by_numbers(module, cuts, how.to)
    ranks = {path: rank for path, rank in ranks.items() if rank <= cuts[path].most}
    if not ranks:
        raise ModelError(
            "no layer gets smaller by a lower rank", given=f"to {how.to:g} of {how.of}", fix="choose a smaller share"
        )
    for path, rank in ranks.items():
        module.set_submodule(path, _factors(cuts[path], rank))
    return {"how": "rank", "ranks": ranks}


def _chosen(module: nn.Module, patterns: Sequence[str], few: Tensor) -> dict[str, Factored]:
    layers = dict(module.named_modules())
    readers = [path for path, layer in layers.items() if isinstance(layer, _READERS)]
    able: dict[str, Factored] = {}
    for path in [*maskable(module), *_tables(module)]:
        layer = layers[path]
        ungrouped = isinstance(layer, nn.Linear | nn.Embedding) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if ungrouped and path and not any(path.startswith(f"{one}.") for one in readers):
            assert isinstance(layer, Factored)
            if _only_called(module, path, layer, few):
                able[path] = layer
    chosen: set[str] = set()
    for pattern in patterns:
        named = {path for path in layers if fnmatchcase(path, pattern)}
        inside = {path for path in able if any(path == one or not one or path.startswith(f"{one}.") for one in named)}
        if not named:
            raise ModelError(f"the model has no layer `{pattern}`", where="rank.layers", fix=nearest(pattern, layers))
        if not inside:
            raise ModelError(
                f"`{pattern}` leads to no layer that can be factored", where="rank.layers",
                expected="Linear, Embedding or ungrouped Conv2d, sharing its weight with no other layer",
            )  # fmt: skip
        chosen |= inside
    return {path: layer for path, layer in able.items() if path in chosen}


def _tables(module: nn.Module) -> list[str]:
    """Tables of vectors whose weight no other layer shares."""
    found = {path: layer for path, layer in module.named_modules() if type(layer) is nn.Embedding}
    owners: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    # One with a greatest length of vectors changes them where they are looked up.
    return [path for path, layer in found.items() if owners[id(layer.weight)] == 1 and layer.max_norm is None]


@torch.no_grad()
def _only_called(module: nn.Module, path: str, layer: Factored, few: Tensor) -> bool:
    """Whether a model asks a layer, and does not look into it, as some do for the type of its weight."""
    module.set_submodule(path, factored_pair(layer, 1))
    try:
        module(few)
    except Exception:  # whatever a model's own code says
        return False
    finally:
        module.set_submodule(path, layer)
    return True


@torch.no_grad()
def _cut(layer: Factored) -> _Cut:
    matrix = layer.weight.detach().float().cpu().flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return _Cut(layer, left, values, right)


def _by_energy(cuts: Mapping[str, _Cut], share: float) -> dict[str, int]:
    """The least rank of each layer that holds the share of its squared singular values."""
    return {path: int((cut.shares.cumsum(0) < share - 1e-12).sum()) + 1 for path, cut in cuts.items()}


def _by_numbers(module: nn.Module, cuts: Mapping[str, _Cut], share: float) -> dict[str, int]:
    """Ranks by which the whole model has the share of its numbers: what holds most for its cost stays, over all layers.

    One threshold for all layers on the share of energy for each number, lowered as far as the budget goes.
    """
    total = sum(parameter.numel() for parameter in module.parameters())
    rest = total - sum(cut.whole for cut in cuts.values())
    budget = int(share * total) - rest
    worths = {path: cut.shares / cut.cost for path, cut in cuts.items()}

    def ranks(least: float) -> dict[str, int]:
        return {path: max(1, int((worth >= least).sum())) for path, worth in worths.items()}

    def numbers(found: Mapping[str, int]) -> int:
        return sum(cuts[path].numbers(rank) for path, rank in found.items())

    if not cuts or numbers(ranks(float("inf"))) > budget:
        least = (rest + numbers(ranks(float("inf")))) / total
        raise ModelError(
            "the rank of these layers cannot go down so far", given=f"to {share:g} of the parameters",
            expected=f"a share above {least:.3f}, which rank 1 everywhere leaves", fix="name more layers, or prune",
        )  # fmt: skip
    levels = torch.unique(torch.cat(list(worths.values()))).flip(0)  # from the greatest down
    low, high = 0, len(levels)  # how far down the levels the threshold goes: low fits, high may not
    while low < high:
        middle = (low + high + 1) // 2
        if numbers(ranks(float(levels[middle - 1]))) <= budget:
            low = middle
        else:
            high = middle - 1
    return ranks(float(levels[low - 1]) if low else float("inf"))


@torch.no_grad()
def _factors(cut: _Cut, rank: int) -> nn.Sequential:
    """Two layers whose product is the nearest matrix of this rank; the singular values are shared out evenly."""
    pair = factored_pair(cut.layer, rank)
    root = cut.values[:rank].sqrt()
    first, second = pair[0], pair[1]
    assert isinstance(first, Factored)
    assert isinstance(second, nn.Linear | nn.Conv2d)
    ahead, behind = cut.left[:, :rank] * root, root[:, None] * cut.right[:rank]
    if isinstance(first, nn.Embedding):  # (V, D) ≈ (V, r) · (r, D): what is looked up is the left one
        first.weight.copy_(ahead)
        second.weight.copy_(behind.T)
    else:
        first.weight.copy_(behind.view_as(first.weight))
        second.weight.copy_(ahead.view_as(second.weight))
    if second.bias is not None:
        assert not isinstance(cut.layer, nn.Embedding)
        assert cut.layer.bias is not None
        second.bias.copy_(cut.layer.bias)
    for new in (first, second):
        new.weight.requires_grad_(cut.layer.weight.requires_grad)
    return pair
