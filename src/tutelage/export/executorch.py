"""ExecuTorch: a program for phones and small boards, its graph lowered to XNNPACK's kernels."""

from __future__ import annotations

import importlib
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
from tutelage.files import write_bytes
from tutelage.models import fold_batchnorm

__all__ = ["ExecutorchRunner", "open_executorch", "write_executorch"]

MOST = 64  # examples in one call: memory is planned before the program runs, for no more than it was told


@final
class ExecutorchRunner:
    """A program in ExecuTorch's runtime, on the CPU; larger batches are asked in parts."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        runtime = _module("executorch.runtime")
        try:
            with quiet():
                # The runtime reads from what it was given for as long as it runs.
                self._bytes = path.read_bytes()
                self._program = runtime.Runtime.get().load_program(self._bytes)
                told = self._program.load_method(KEY).execute([])[0]
                self._method = self._program.load_method("forward")
        except Exception as error:  # the runtime's own errors are of no one class
            raise DamagedError(
                f"{path} is no ExecuTorch program of ours", given=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        self.facts = Facts.from_text(bytes(told.to(torch.uint8).tolist()).decode("utf-8", "replace"), str(path))

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), MOST)
        # Copies, since the runtime writes the next answer into the same memory.
        return np.concatenate([self._method.execute([part.contiguous()])[0].clone().numpy() for part in parts])


def open_executorch(path: Path, *, threads: int | None = None) -> ExecutorchRunner:
    """Load a file that `write_executorch` wrote; its runtime chooses its threads itself.

    Raises:
        DamagedError: it is no such file.
        MissingExtraError: ExecuTorch is not installed.
    """
    return ExecutorchRunner(path, threads=threads)


def write_executorch(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module as an ExecuTorch program for batches of 1 … 64, in float32, with its facts as a method of it.

    Args:
        module: in any mode; batch norms are folded into the layers before them.
        facts: what travels along.
        inputs: (1 or more, …) examples to trace with.
        path: where.

    Raises:
        ModelError: torch or ExecuTorch cannot translate it.
        MissingExtraError: ExecuTorch is not installed.
    """
    lower = _module("executorch.exir").to_edge_transform_and_lower
    partitioner = _module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    told = torch.tensor(list(facts.to_text().encode()), dtype=torch.uint8)
    plain = fold_batchnorm(module).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=MOST)},)
    # Traced with as many as it may be asked: traced with two, some nets get memory for 15, whatever the bound says.
    example = inputs[torch.arange(MOST) % len(inputs)].clone()
    with quiet(), torch.no_grad():
        try:
            program: Any = torch.export.export(plain, (example,), dynamic_shapes=shapes)
            made = lower(program, partitioner=[partitioner()], constant_methods={KEY: told}).to_executorch()
        except Exception as error:  # as many ways as there are graphs
            raise ModelError(
                "this model cannot be translated for ExecuTorch",
                given=f"{type(error).__name__}: {str(error).splitlines()[0]}", fix="use the format `onnx`",
            ) from error  # fmt: skip
    write_bytes(path, bytes(made.buffer))


def _module(name: str) -> ModuleType:
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("executorch", "executorch", purpose="ExecuTorch programs") from error
