"""Tables of tokens' vectors in 8 bits: most of a small text student's file, and the one part that quantisers of ONNX
leave alone or round by a single scale for the whole table.

Each row has a scale of its own, so that a rare token's small vector is not rounded away beside a frequent one's: what
is looked up is a row of whole numbers times one number, the same in any company.
"""

from __future__ import annotations

import copy
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["narrowed"]

_LEAST = 4096  # numbers of a table that are worth it
_MOST = 127


@final
class _Rows(nn.Module):
    """(…) whole numbers to (…, D): rows of codes, times the scale of each."""

    codes: Tensor
    scales: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        weight = table.detach().float()
        greatest = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny * 2**10)
        self.register_buffer("codes", (weight / greatest * _MOST).round().to(torch.int8))
        self.register_buffer("scales", greatest / _MOST)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codes).float() * F.embedding(tokens, self.scales)


def narrowed(module: nn.Module) -> nn.Module:
    """The module with its large tables of vectors in 8 bits: a copy; one without any is given back itself.

    A table that is also a layer's weight stays as it is there: both would be written.
    """
    owners: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    paths = [
        path
        for path, layer in module.named_modules()
        if type(layer) is nn.Embedding and path and layer.max_norm is None and owners[id(layer.weight)] == 1
        and layer.weight.numel() >= _LEAST
    ]  # fmt: skip
    if not paths:
        return module
    small = copy.deepcopy(module)
    for path in paths:
        table = small.get_submodule(path)
        assert isinstance(table, nn.Embedding)
        small.set_submodule(path, _Rows(table.weight))
    return small
