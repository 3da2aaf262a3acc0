"""Weights in safetensors with the facts that build the net again: the format that tutelage itself trains and reads."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from tutelage.compress import rebuilt
from tutelage.errors import DamagedError, ModelError
from tutelage.export.facts import KEY, Facts, Inputs
from tutelage.files import write_bytes
from tutelage.models import ModelSpec, build, load_weights
from tutelage.models.reuse import HeadFacts, with_head

__all__ = ["PlainRunner", "open_plain", "write_plain"]


@final
class PlainRunner:
    """Weights in the net that their facts build, in eager torch."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.facts = _facts(path)
        assert self.facts.model is not None
        self._threads = threads
        self._module: nn.Module = build(
            ModelSpec(self.facts.model, dict(self.facts.args or {}), None), input_shape=self.facts.input_shape,
            classes=len(self.facts.classes), mean=list(self.facts.mean), std=list(self.facts.std),
            vocabulary=self.facts.vocabulary, separator=self.facts.separator,
        )  # fmt: skip
        if self.facts.head is not None:
            self._module = with_head(self._module, HeadFacts.of_json(dict(self.facts.head)))
        rebuilt(self._module, self.facts.smaller)
        load_weights(self._module, path)
        self._module.eval()

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        if self._threads is not None and self._threads != torch.get_num_threads():
            torch.set_num_threads(self._threads)
        with torch.no_grad():
            found: NDArray[np.float32] = self._module(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
        return found


def open_plain(path: Path, *, threads: int | None = None) -> PlainRunner:
    """Load a file that `write_plain` wrote.

    Raises:
        DamagedError: it is no such file.
        ModelError: its net cannot be built.
    """
    return PlainRunner(path, threads=threads)


def write_plain(module: nn.Module, facts: Facts, inputs: Tensor, path: Path) -> None:
    """Write the weights as they are, the facts in the header.

    Raises:
        ModelError: only the caller's code can build this net.
    """
    if facts.model is None:
        raise ModelError(
            "this model was built by code outside tutelage, so that its weights alone are of no use",
            fix="choose a format that holds the graph as well, such as onnx",
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_bytes(path, save(tensors, metadata={KEY: facts.to_text()}))


def _facts(path: Path) -> Facts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is no safetensors file", given=str(error)) from error
    if told is None:
        raise ModelError(
            f"{path} does not say which net its weights are of", expected="a file that `tutelage export` wrote",
        )  # fmt: skip
    return Facts.from_text(told, str(path))
