"""A torch module as a teacher: in eval mode, without gradients, and provably the same afterwards."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses.gradients import kernels_with_derivatives
from tutelage.models import architecture_digest, fold_batchnorm, state_digest
from tutelage.objective import read_view
from tutelage.slopes import best_class, slopes
from tutelage.taps import Taps, split_place
from tutelage.types import Batch, Outputs

__all__ = ["ModuleTeacher"]


@final
class ModuleTeacher:
    """Wraps a module that maps an input view to logits.

    The module is put into eval mode and frozen here; it is not registered in whatever holds the teacher, so it is never
    in an optimizer, a state dict or a checkpoint.

    Args:
        module: maps (B, …) to logits (B, C).
        view: the name of the input view that it reads.
        fold: answer with a copy whose batch normalisations are folded into the layers before them. The same answers to
            rounding, and faster; the copy is proven unchanged as well.
        channels_last: run the module in this memory format.
        places: layers whose outputs are answered as features, by path or pattern; with a number behind it the gradient
            of that, "net.stages.1@max", or with respect to the input, "@max".

    Raises:
        ModelError: a place that no layer has.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        view: str = "x",
        fold: bool = False,
        channels_last: bool = False,
        places: Sequence[str] = (),
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.view = view
        self._answering = fold_batchnorm(module).eval().requires_grad_(False) if fold else module
        if channels_last:
            self._answering = self._answering.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._folded = None if self._answering is module else state_digest(self._answering)
        self._architecture = architecture_digest(module)
        self._slopes = tuple(place for place in places if split_place(place)[1])
        self._layers = tuple(place for place in places if not split_place(place)[1])
        self._taps = Taps(self._answering, places) if places else None

        # A part of it may be set to train mode by itself, for instance a backbone that a student shares.
        self._modules = tuple(self._answering.modules())

    def answer(self, batch: Batch) -> Outputs:
        """Logits (B, C) in float32, and the features and gradients at the places, all without a graph.

        Raises:
            ModelError: the module does not return one row of logits per example.
        """
        # Somebody may have called .train() on it between two batches; a frozen teacher that moves its statistics is the
        # most common silent fault of distillation code.
        if any(module.training for module in self._modules):
            self._answering.eval()
        view = read_view(batch, self.view)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(bool(self._slopes)))
            if self._slopes:
                stack.enter_context(kernels_with_derivatives(self._answering, twice=False))
                view = view.detach().requires_grad_()
            logits = self._answering(view)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(view):
            shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                "the teacher does not answer with logits", given=shown, expected=f"a tensor of shape ({len(view)}, C)"
            )
        features = {} if self._taps is None else self._taps.take()
        if not self._slopes:
            return Outputs(logits.float(), features)
        at, best = {"": view} | features, best_class(logits)
        found = slopes(logits, at, self._slopes, batch, best, graph=False)
        kept = {name: feature.detach() for name, feature in features.items() if self._asked(name)}
        return Outputs(logits.detach().float(), kept | found)

    def _asked(self, layer: str) -> bool:
        """Whether what it puts out is to be answered; it may be tapped for its gradient only."""
        return any(fnmatchcase(layer, place) for place in self._layers)

    def fingerprint(self) -> str:
        """SHA-256 over architecture, weights and buffers: the same on every device, and after every honest run."""
        digest = hashlib.sha256(f"{self._architecture} {state_digest(self.module)}".encode()).hexdigest()
        if self._folded is None:
            return digest
        # Folding rounds differently on other hardware, so the copy is no part of who the teacher is. But it must stay.
        now = state_digest(self._answering)
        return f"{digest} folded" if now == self._folded else f"{digest} folded, then changed to {now}"

    def to(self, device: torch.device) -> None:
        """Move the module."""
        self.module.to(device)
        self._answering.to(device)
