"""OpenVINO's own files: the graph and its weights in one archive, run by its runtime on the CPU.

In 8 bits by NNCF. SmoothQuant is off: with it a transformer's file was measured to answer wrongly, and differently in
batches of other sizes, without a word. Every file goes through the gate, which compares rows at several sizes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import zipfile
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
from tutelage.export.onnx import quiet
from tutelage.models import fold_batchnorm

__all__ = ["OpenVinoRunner", "open_openvino", "write_openvino", "write_openvino_int8"]

_GRAPH, _WEIGHTS, _FACTS = "model.xml", "model.bin", f"{KEY}.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


@final
class OpenVinoRunner:
    """An archive of ours in OpenVINO, on the CPU."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        openvino = _openvino()
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # else it takes bf16 where the CPU has it
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            with zipfile.ZipFile(path) as archive:
                graph, weights, told = (archive.read(name) for name in (_GRAPH, _WEIGHTS, _FACTS))
            core = openvino.Core()
            self._model = core.compile_model(core.read_model(graph, weights), "CPU", options)
        except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, ValueError) as error:
            raise DamagedError(
                f"{path} is no archive of an OpenVINO model", given=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        self.facts = Facts.from_text(told.decode("utf-8", "replace"), str(path))

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        # A copy, since the runtime writes the next answer into the same memory.
        found: NDArray[np.float32] = np.array(self._model([np.ascontiguousarray(inputs)])[0])
        return found


def open_openvino(path: Path, *, threads: int | None = None) -> OpenVinoRunner:
    """Load a file that `write_openvino` or `write_openvino_int8` wrote.

    Raises:
        DamagedError: it is no such file.
        MissingExtraError: OpenVINO is not installed.
    """
    return OpenVinoRunner(path, threads=threads)


def write_openvino(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module for OpenVINO with a free batch size, in float32.

    Args:
        module: in any mode; batch norms are folded into the layers before them.
        facts: what travels along.
        inputs: (2 or more, …) examples to trace with.
        path: where.

    Raises:
        ModelError: torch or OpenVINO cannot translate it.
        MissingExtraError: OpenVINO is not installed.
    """
    _save(_converted(module, inputs), facts, path)


def write_openvino_int8(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module for OpenVINO with weights and activations in 8 bits, by NNCF.

    Args:
        inputs: (N, …) real examples that the ranges are measured on; some hundreds.
    """
    converted = _converted(module, inputs)
    nncf = _nncf()
    kinds = {operation.get_type_name() for operation in converted.get_ops()}
    attends = bool(kinds & {"ScaledDotProductAttention", "Softmax"})
    with _alone():
        try:
            small = nncf.quantize(
                converted, nncf.Dataset([part.numpy() for part in torch.split(inputs, 1)]), subset_size=len(inputs),
                model_type=nncf.ModelType.TRANSFORMER if attends else None, fast_bias_correction=True,
                advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=_unsmoothed(nncf)),
            )  # fmt: skip
        except Exception as error:  # as many ways as there are graphs
            raise ModelError(
                "NNCF cannot quantise this model", given=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                fix="use the format `openvino`, or `onnx-int8`",
            ) from error  # fmt: skip
    _save(small, facts, path)


def _unsmoothed(nncf: ModuleType) -> Any:
    """SmoothQuant off, for matrix products and convolutions."""
    return nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)


def _converted(module: nn.Module, inputs: Tensor) -> Any:
    openvino = _openvino()
    plain = fold_batchnorm(module).eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with _alone(), torch.no_grad():
        try:
            program = torch.export.export(plain, (inputs[:2].clone(),), dynamic_shapes=shapes)
            found = openvino.convert_model(program)
            found.reshape([-1, *inputs.shape[1:]])
        except Exception as error:  # exporters fail in as many ways as there are models
            raise ModelError(
                "this model cannot be translated for OpenVINO",
                given=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                fix="look for code in its forward that depends on values, or use the format `safetensors`",
            ) from error
    return found


def _save(model: Any, facts: Facts, path: Path) -> None:
    """OpenVINO writes two files; an artifact is one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        place = Path(folder)
        with _alone():
            _openvino().save_model(model, str(place / _GRAPH), compress_to_fp16=False)
        (place / _FACTS).write_text(facts.to_text(), encoding="utf-8")
        with zipfile.ZipFile(path, "w") as archive:
            for name in (_GRAPH, _WEIGHTS, _FACTS):
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_STORED if name == _WEIGHTS else zipfile.ZIP_DEFLATED
                archive.writestr(entry, (place / name).read_bytes())


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without talk, and without a word to anybody else: these packages report their use, but not from a CI machine."""
    logger, before = logging.getLogger("nncf"), os.environ.get("CI")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["CI"] = "true"
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
        os.environ.pop("CI")
        os.environ.update({} if before is None else {"CI": before})


def _openvino() -> ModuleType:
    try:
        with _alone():
            import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", purpose="the format `openvino`") from error
    module: ModuleType = openvino
    return module


def _nncf() -> ModuleType:
    try:
        with _alone():
            import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "openvino", purpose="the format `openvino-int8`") from error
    module: ModuleType = nncf
    return module
