"""What was done to a net, as facts: enough to build the smaller net again from the plain one, without its weights.

A step says which sizes a layer has now, which layer became two, which blocks are left. So a student's file needs
neither the package that chose them nor the data: the plain net is built, the steps are repeated, the weights fill it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import DamagedError, ModelError

__all__ = ["factored_pair", "keep_blocks", "rebuilt", "sizes_of", "sizes_step"]

Size = int | list[int]
Sizes = dict[str, dict[str, Size]]
Factored = nn.Linear | nn.Conv2d | nn.Embedding

_DAMAGED = "the steps by which this student was made smaller are not what was written"


def rebuilt(module: nn.Module, steps: Sequence[Mapping[str, Any]] | None) -> nn.Module:
    """Repeat the steps on a plain net, in place; its weights are then of the right shapes, and nothing else.

    Args:
        module: as the model's name builds it.
        steps: what `compress` gave, as its JSON; None or empty leaves the net as it is.

    Raises:
        DamagedError: no such step, or it does not fit this net.
    """
    for step in steps or ():
        try:
            if step["how"] == "sizes":
                _resize(module, step["sizes"], step["shapes"])
            elif step["how"] == "rank":
                for path, rank in step["ranks"].items():
                    layer = module.get_submodule(path)
                    assert isinstance(layer, Factored)
                    if not 1 <= rank <= min(layer.weight.shape[0], layer.weight[0].numel()):
                        raise ValueError(f"rank {rank} of {path}")
                    module.set_submodule(path, factored_pair(layer, rank))
            elif step["how"] == "blocks":
                keep_blocks(module, step["at"], step["keep"])
            elif step["how"] != "zeros":  # which are in the weights
                raise ValueError(step["how"])
        except (AttributeError, KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
            raise DamagedError(_DAMAGED, given=repr(error)[:200], fix="restore the file from a copy") from error
    return module


# ---- layers with fewer channels --------------------------------------------------------------------------------------


def sizes_of(module: nn.Module) -> tuple[Sizes, dict[str, list[int]]]:
    """The whole numbers that every layer keeps of itself, such as its channels, and the shape of every tensor."""
    sizes: Sizes = {
        path: {
            name: value if type(value) is int else list(value)
            for name, value in vars(layer).items()
            if _is_size(value) and not name.startswith("_")
        }
        for path, layer in module.named_modules()
    }
    shapes = dict(_tensors(module))
    return sizes, {name: list(value.shape) for name, value in shapes.items()}


def sizes_step(before: tuple[Sizes, dict[str, list[int]]], module: nn.Module) -> dict[str, Any]:
    """The step that leads from the sizes before to those of a module now."""
    sizes, shapes = sizes_of(module)
    changed = {
        path: {name: value for name, value in own.items() if before[0][path].get(name) != value}
        for path, own in sizes.items()
    }
    return {
        "how": "sizes",
        "sizes": {path: own for path, own in changed.items() if own},
        "shapes": {name: shape for name, shape in shapes.items() if before[1][name] != shape},
    }


def _is_size(value: object) -> bool:
    return type(value) is int or (type(value) is tuple and all(type(one) is int for one in value))


def _listed(value: Any) -> list[int]:
    return [value] if type(value) is int else list(value)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _resize(module: nn.Module, sizes: Mapping[str, Mapping[str, Size]], shapes: Mapping[str, Sequence[int]]) -> None:
    tensors = dict(_tensors(module))
    made: dict[int, Tensor] = {}  # what is shared stays shared
    for name, shape in shapes.items():
        old = tensors[name]
        # Pruning only takes away: a file that asks for more does not come from here, and would cost memory.
        if len(shape) != old.ndim or not all(1 <= new <= was for new, was in zip(shape, old.shape, strict=True)):
            raise ValueError(f"{name} of {shape}")
        new = made.get(id(old))
        if new is None:
            new = torch.zeros(*shape, dtype=old.dtype)
            new = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
            made[id(old)] = new
        path, _, last = name.rpartition(".")
        setattr(module.get_submodule(path), last, new)
    for path, own in sizes.items():
        layer = module.get_submodule(path)
        for name, value in own.items():
            now = getattr(layer, name)
            if not _is_size(now) or not all(1 <= a <= b for a, b in zip(_listed(value), _listed(now), strict=True)):
                raise ValueError(f"{path}.{name} = {value}")
            setattr(layer, name, value if type(now) is int else tuple(_listed(value)))


# ---- a layer that became two -----------------------------------------------------------------------------------------


def factored_pair(layer: Factored, rank: int) -> nn.Sequential:
    """Two layers of the shapes that stand for one: the first to `rank` numbers, the second to as many as before.

    A convolution's first factor keeps kernel, stride and padding; its second is 1×1. A table's first factor is a table
    of shorter vectors.
    """
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first: nn.Module
    second: nn.Module
    if isinstance(layer, nn.Embedding):
        rows, width = layer.weight.shape
        first = nn.Embedding(rows, rank, padding_idx=layer.padding_idx, **like)
        second = nn.Linear(rank, width, bias=False, **like)
        return nn.Sequential(first, second).train(layer.training)
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **like)
        second = nn.Linear(rank, layer.out_features, bias=bias, **like)
    else:
        kernel: dict[str, Any] = {
            name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        first = nn.Conv2d(layer.in_channels, rank, bias=False, **kernel, **like)
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=bias, **like)
    return nn.Sequential(first, second).train(layer.training)


# ---- fewer blocks ----------------------------------------------------------------------------------------------------


def keep_blocks(module: nn.Module, at: str, keep: Sequence[int]) -> None:
    """Leave only some blocks of a chain, in place, in their order.

    Raises:
        ModelError: there is no such chain, or no such block.
    """
    chain = module.get_submodule(at)
    if not isinstance(chain, (nn.Sequential, nn.ModuleList)):
        raise ModelError(f"`{at}` is no chain of blocks", given=type(chain).__name__, expected="Sequential, ModuleList")
    wanted = set(keep)
    if not wanted or not wanted <= set(range(len(chain))):
        raise ModelError(
            f"`{at}` has no such blocks", given=f"keep {sorted(wanted)}", expected=f"some of 0…{len(chain) - 1}"
        )
    for index in reversed(range(len(chain))):
        if index not in wanted:
            del chain[index]
