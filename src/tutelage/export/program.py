"""A torch program (`torch.export`): the graph and the weights, run by torch without the code that built them."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.errors import DamagedError, ModelError
from tutelage.export.facts import KEY, Facts, Inputs
from tutelage.export.onnx import quiet
from tutelage.models import fold_batchnorm

__all__ = ["ProgramRunner", "open_program", "write_program"]


@final
class ProgramRunner:
    """A saved program in torch, on the CPU."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        extra = {KEY: ""}
        try:
            with quiet():
                self._module = torch.export.load(str(path), extra_files=extra).module()
        except Exception as error:  # what unpacking raises is not documented
            raise DamagedError(
                f"{path} is no program of torch.export", given=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        self.facts = Facts.from_text(extra[KEY], str(path))
        self._threads = threads

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        before = torch.get_num_threads()
        if self._threads is not None and self._threads != before:
            torch.set_num_threads(self._threads)
        with torch.no_grad():
            found: NDArray[np.float32] = self._module(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
        return found


def open_program(path: Path, *, threads: int | None = None) -> ProgramRunner:
    """Load a file that `write_program` wrote. Only files that you trust: torch unpacks more than numbers from them.

    Raises:
        DamagedError: it is no such file.
    """
    return ProgramRunner(path, threads=threads)


def write_program(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write a module as a torch program with a free batch size.

    Raises:
        ModelError: torch cannot trace it.
    """
    plain = fold_batchnorm(module).eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with quiet(), torch.no_grad():
        try:
            # A slice would drag along the storage of all that it was cut from.
            program = torch.export.export(plain, (inputs[:2].clone(),), dynamic_shapes=shapes)
        except Exception as error:  # exporters fail in as many ways as there are models
            raise ModelError(
                "torch cannot trace this model", given=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                fix="look for code in its forward that depends on values, or use the format `safetensors`",
            ) from error  # fmt: skip
        torch.export.save(program, str(path), extra_files={KEY: facts.to_text()})
