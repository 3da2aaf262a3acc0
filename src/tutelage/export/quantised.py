"""ONNX in 8 (or 4) bits with the ranges that a student learned, so that the file computes what training saw."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from tutelage.compress.quantise import BITS, grid, is_quantised, ranges_of, row_scales, unquantised, watch
from tutelage.errors import ModelError
from tutelage.export import onnx
from tutelage.export.facts import Facts
from tutelage.export.narrow import narrowed
from tutelage.models import fold_batchnorm

__all__ = ["write_int8"]


def write_int8(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module in whole numbers: with its own ranges where it learned any, else with those of examples.

    Args:
        module: one that `compress.quantise` let learn with rounding, or any other.
        facts: what travels along.
        inputs: (N, …) real examples that ranges are measured on where the module has none.
        path: where.

    Raises:
        ModelError: torch cannot export it.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    if not is_quantised(module):
        onnx.write_int8(narrowed(module), facts, inputs, path)
        return
    module = copy.deepcopy(module).cpu()
    told = ranges_of(module)
    if told["activations"] != "float" and any(low >= high for low, high in told["ranges"].values()):
        watch(module, inputs)  # nothing was learned yet, as before the first step
        told = ranges_of(module)
    onnx.write_onnx(_shipped(module, told), facts, inputs, path)
    if BITS[told["weights"]] == 4:
        _narrow(path)


def _shipped(module: nn.Module, told: Mapping[str, Any]) -> nn.Module:
    """The module without batch norms, whose rounded layers hold whole numbers."""
    plain = narrowed(fold_batchnorm(unquantised(module)))
    rounds, bits = told["activations"] != "float", BITS[told["weights"]]
    for path, ends in told["ranges"].items():
        if rounds and ends[0] >= ends[1]:
            raise ModelError(f"`{path}` never saw a number that is not 0, so that it has no range")
        plain.set_submodule(path, _Codes(cast(_Layer, plain.get_submodule(path)), bits, ends if rounds else None))
    return plain


_Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@final
class _Codes(nn.Module):
    """A layer as ONNX says it: its input to whole numbers and back, its weight back from whole numbers.

    Whoever runs the file sees from these pairs that the layer between them may compute in whole numbers.
    """

    weight: Tensor
    bias: Tensor | None
    scales: Tensor
    scale: Tensor
    zero: Tensor
    bias_scales: Tensor

    def __init__(self, layer: _Layer, bits: int, ends: list[float] | None) -> None:
        super().__init__()
        most = 2 ** (bits - 1) - 1
        self.rounds = ends is not None
        self.layer = layer if not isinstance(layer, nn.Linear) else None
        weight, bias = layer.weight.detach().float(), layer.bias
        scales = row_scales(weight, bits)
        codes = (weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).round().clamp(-most, most).to(torch.int8)
        self.register_buffer("weight", codes if self.layer is not None else codes.T.contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        if ends is None:
            return
        scale, zero = grid(torch.tensor(ends))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.uint8))
        if bias is not None and self.layer is not None:
            # In the numbers that the sums of products have, so that the whole convolution can stay in them.
            self.register_buffer("bias_scales", scale * scales)
            self.register_buffer("bias", (bias.detach().double() / (scale.double() * scales)).round().to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if self.rounds:
            codes = _node("QuantizeLinear", (x, self.scale, self.zero), torch.uint8, x)
            x = _node("DequantizeLinear", (codes, self.scale, self.zero), torch.float32, x)
            if bias is not None and self.layer is not None:
                bias = _node("DequantizeLinear", (bias, self.bias_scales), torch.float32, bias, 0)
        axis = 0 if self.layer is not None else 1
        weight = _node("DequantizeLinear", (self.weight, self.scales), torch.float32, self.weight, axis)
        if isinstance(self.layer, nn.Conv1d | nn.Conv2d):
            found: Tensor = self.layer._conv_forward(x, weight, bias)
            return found
        product = x @ weight
        return product if bias is None else product + bias


def _node(name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, like: Tensor, axis: int | None = None) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    # `like` has the shape of what comes out.
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=like.shape, version=18)


def _narrow(path: Path) -> None:
    """Put the weights, whose codes fit, into four bits each."""
    package = onnx._onnx()
    model = package.load(str(path))
    model.opset_import[0].version = 21  # the first whose DequantizeLinear reads four bits
    for tensor in model.graph.initializer:
        if tensor.data_type == package.TensorProto.INT8:
            codes = package.numpy_helper.to_array(tensor)
            tensor.CopyFrom(package.helper.make_tensor(
                tensor.name, package.TensorProto.INT4, codes.shape, codes.flatten().tolist()
            ))  # fmt: skip
    package.save(model, str(path))
