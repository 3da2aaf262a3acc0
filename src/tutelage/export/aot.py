"""AOTInductor: a model compiled to machine code by torch and a C++ compiler, for this kind of processor.

Needs no package but torch. The file holds a library that is loaded, so it is opened only where it is trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.errors import DamagedError, ModelError
from tutelage.export.facts import KEY, Facts, Inputs
from tutelage.export.onnx import quiet
from tutelage.models import fold_batchnorm

__all__ = ["AotRunner", "open_aot", "write_aot"]

_LARGEST = 4096  # rows of a batch; compiled code wants a bound


@final
class AotRunner:
    """Compiled code in torch, on the CPU."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        import torch._inductor as inductor

        try:
            with quiet():
                self._model: Any = inductor.aoti_load_package(str(path))
            told = self._model.get_metadata()[KEY]
        except Exception as error:  # what loading raises is not documented
            raise DamagedError(
                f"{path} is no package of AOTInductor", given=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        self.facts = Facts.from_text(bytes.fromhex(told).decode(), str(path))
        self._threads = threads

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        if self._threads is not None and self._threads != torch.get_num_threads():
            torch.set_num_threads(self._threads)
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), _LARGEST)
        with torch.no_grad():
            found: NDArray[np.float32] = torch.cat([self._model(part) for part in parts]).numpy()
        return found


def open_aot(path: Path, *, threads: int | None = None) -> AotRunner:
    """Load a file that `write_aot` wrote. Only files that you trust: its code runs.

    Raises:
        DamagedError: it is no such file, or was compiled for another kind of processor.
    """
    return AotRunner(path, threads=threads)


def write_aot(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Compile a module for batches of 1 … 4096; takes a minute or more.

    Args:
        module: in any mode; batch norms are folded into the layers before them.
        facts: what travels along.
        inputs: (2 or more, …) examples to trace with.
        path: where.

    Raises:
        ModelError: there is no C++ compiler, or torch cannot compile this model.
    """
    _check_compiler()
    import torch._inductor as inductor

    plain = fold_batchnorm(module).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=_LARGEST)},)
    # In hexadecimal, since the text becomes part of generated code.
    settings = {"aot_inductor.metadata": {KEY: facts.to_text().encode().hex()}}
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(plain, (inputs[:2].clone(),), dynamic_shapes=shapes)
            inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except Exception as error:  # compilers fail in as many ways as there are models
            raise ModelError(
                "torch cannot compile this model", given=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                fix="use the format `torch` or `onnx`",
            ) from error  # fmt: skip


def _check_compiler() -> None:
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as error:  # of a private module
        raise ModelError(
            "the format `aot` needs a C++ compiler, and there is none", given=str(error).split("\n")[0],
            fix="install g++ or clang++, or name one in the environment variable CXX; or use the format `onnx`",
        ) from error  # fmt: skip
