"""Single weights set to zero, and kept there while the rest learns.

A mask is a parametrisation of torch: the layer sees weight × mask, and so does the gradient, whatever the optimizer
does with momentum or decay. `plain` writes the product into the weight and takes the mask away, so that what ships is
the architecture as it was. A dense file and a dense kernel gain nothing by zeros; see `docs/compressing.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["is_masked", "mask", "maskable", "masks_for", "plain", "remasked", "zeros_of"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
class _Masked(nn.Module):
    """weight -> weight where it is kept, 0 elsewhere."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(~self.kept, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(~self.kept, 0.0)


def maskable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that may lose single numbers, by the path of their layer: matrices and kernels, no biases or norms.

    The last one, which puts out the classes, is among them; a weight that two layers share is not.
    """
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, _LAYERS)}
    owners: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    weights = {path: cast(nn.Parameter, layer.weight) for path, layer in layers.items()}
    return {path: weight for path, weight in weights.items() if owners.get(id(weight)) == 1}


def masks_for(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Where the `keep` greatest scores of all layers together stand; of equals the first, in the order of layers.

    Args:
        scores: by layer, of any shapes.
        keep: how many stay, ≥ 1.
    """
    flat = torch.cat([score.detach().double().flatten() for score in scores.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    # Stable, so that ties fall the same way everywhere.
    kept[torch.sort(flat, descending=True, stable=True).indices[:keep]] = True
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    return {path: part.view(score.shape) for (path, score), part in zip(scores.items(), parts, strict=True)}


def mask(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Put masks on layers, in place; the masked weights are zero from now on.

    Args:
        module: some of whose layers are Linear or convolutions.
        masks: path of a layer -> true where its weight stays, of the weight's shape.
    """
    for path, kept in masks.items():
        layer = module.get_submodule(path)
        parametrize.register_parametrization(layer, "weight", _Masked(kept.to(layer.weight.device)))  # type: ignore[arg-type]
    return module


def remasked(module: nn.Module) -> nn.Module:
    """Put masks on all weights that are zero, in place: those of a file whose module was masked."""
    return mask(module, {path: weight.detach() != 0 for path, weight in maskable(module).items()})


def _masked_layers(module: nn.Module) -> Iterable[nn.Module]:
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            own: nn.ModuleDict = layer.parametrizations  # type: ignore[assignment]
            if isinstance(own["weight"][0], _Masked):  # type: ignore[index]
                yield layer


def is_masked(module: nn.Module) -> bool:
    """Whether `mask` put masks into a module that are still there."""
    return any(True for _ in _masked_layers(module))


def plain(module: nn.Module) -> nn.Module:
    """The module without masks: a copy whose masked weights are zeros; one without masks is given back itself."""
    if not is_masked(module):
        return module
    found = copy.deepcopy(module)
    for layer in list(_masked_layers(found)):
        weight = nn.Parameter(cast(Tensor, layer.weight).detach(), requires_grad=_learns(layer))
        # Not by torch's own function, which takes the weight off the class that a copy shares with its original.
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer._modules["parametrizations"]
        layer._parameters = {"weight": weight, **layer._parameters}
    return found


def _learns(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in cast(nn.Module, layer.parametrizations).parameters())


def zeros_of(module: nn.Module) -> int:
    """How many of the weights that can be masked are exactly zero."""
    return sum(int((weight == 0).sum()) for weight in maskable(plain(module)).values())
