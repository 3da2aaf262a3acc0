"""ONNX by torch's own exporter, run and quantised by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.errors import DamagedError, MissingExtraError, ModelError
from tutelage.export.facts import KEY, Facts, Inputs
from tutelage.models import fold_batchnorm

__all__ = ["OnnxRunner", "open_onnx", "quiet", "write_int8", "write_onnx"]

_OPSET = 18
_CALIBRATION_BATCH = 32


@final
class OnnxRunner:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own types stand in a private module
            raise DamagedError(f"{path} is no ONNX file that can be run", given=str(error).split("\n")[0]) from error
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ModelError(
                f"{path} does not say which classes it knows", expected="a file that `tutelage export` wrote"
            )
        self.facts = Facts.from_text(text, str(path))
        self._input = self._session.get_inputs()[0].name

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._session.run(None, {self._input: np.ascontiguousarray(inputs)})[0]
        return found


def open_onnx(path: Path, *, threads: int | None = None) -> OnnxRunner:
    """Load an ONNX file that `write_onnx` or `write_int8` wrote.

    Raises:
        DamagedError: it is no such file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    return OnnxRunner(path, threads=threads)


def write_onnx(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module as ONNX with a free batch size, "input" (B, …) → "logits" (B, C), with its facts inside.

    Args:
        module: in any mode; batch norms are folded into the layers before them.
        facts: what travels along.
        inputs: (2 or more, …) examples to trace with.
        path: where.

    Raises:
        ModelError: torch cannot export it.
        MissingExtraError: onnx is not installed.
    """
    onnx = _onnx()
    plain = fold_batchnorm(module).eval()
    with quiet():
        try:
            program: Any = torch.onnx.export(
                plain, (inputs[:2].clone(),), dynamo=True, input_names=["input"], output_names=["logits"],
                opset_version=_OPSET, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
            )  # fmt: skip
        except Exception as error:  # exporters fail in as many ways as there are models
            raise ModelError(
                "torch cannot export this model to ONNX", given=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                fix="look for code in its forward that depends on values, or use the format `safetensors`",
            ) from error  # fmt: skip
    onnx.save(_slim(program.model_proto, facts), str(path))


def write_int8(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module as ONNX with weights and, where it has convolutions, activations in 8 bits.

    Convolutional nets are quantised statically: their ranges come from `inputs`. Of others only the matrix products
    are, with ranges that are found anew at every call, since their activations have outliers that one range serves ill;
    convolutions that are quantised that way would be several times slower than in float32.

    Args:
        inputs: (N, …) real examples that the ranges are measured on; some hundreds.
    """
    onnx = _onnx()
    from onnxruntime import quantization as q

    with tempfile.TemporaryDirectory() as folder:
        whole, ready = Path(folder) / "whole.onnx", Path(folder) / "ready.onnx"
        write_onnx(module, facts, inputs, whole)
        with quiet():
            q.shape_inference.quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
            if _has_convolutions(ready):
                q.quantize_static(
                    str(ready), str(path), _Calibration(inputs), quant_format=q.QuantFormat.QDQ, per_channel=True,
                    activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                    calibrate_method=q.CalibrationMethod.MinMax,
                )  # fmt: skip
            else:
                q.quantize_dynamic(
                    str(ready), str(path), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                    weight_type=q.QuantType.QInt8,
                )  # fmt: skip
    onnx.save(_slim(onnx.load(str(path)), facts), str(path))


class _Calibration:
    """Examples as ONNX Runtime asks for them."""

    def __init__(self, inputs: Tensor) -> None:
        self._parts = iter([{"input": part.numpy()} for part in torch.split(inputs, _CALIBRATION_BATCH)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._parts, None)

    def set_range(self, start_index: int, end_index: int) -> None: ...


def _has_convolutions(path: Path) -> bool:
    return any(node.op_type == "Conv" for node in _onnx().load(str(path)).graph.node)


def _slim(model: Any, facts: Facts) -> Any:
    """The same graph with our facts, without the exporter's remarks and long names: half of a small net's file."""
    graph = model.graph
    kept = {*(one.name for one in graph.input), *(one.name for one in graph.output), ""}
    short: dict[str, str] = {}
    # A graph within a node speaks of names outside it; such graphs keep theirs.
    nested = any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = node.name = ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in kept and not nested:
                    names[place] = short.setdefault(name, f"t{len(short)}")
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = short.get(tensor.name, tensor.name), ""
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, facts.to_text()
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the talk of exporters and quantisers: what went wrong is told by us."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch exports with
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", purpose="writing ONNX") from error
    module: ModuleType = onnx
    return module


def _runtime() -> ModuleType:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", purpose="running ONNX") from error
    runtime: ModuleType = onnxruntime
    return runtime
