"""Lightning Fabric behind the device face: several processes or devices, each with its share of every batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.errors import MissingExtraError
from tutelage.training.device import move, norm_of_gradient, seed_generators
from tutelage.types import Batch

__all__ = ["FabricDevice"]

_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@final
class FabricDevice:
    """Data-parallel training; start the processes with `torchrun --nproc-per-node N -m tutelage run …`.

    The mean over processes of their losses is the mean over the whole batch even where it does not divide evenly: each
    share is weighted by its size.
    """

    def __init__(self, name: str = "auto", *, precision: str = "32") -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise MissingExtraError("lightning-fabric", "distributed", purpose="train.engine: fabric") from error
        accelerator = name.split(":")[0] if name != "auto" else "auto"
        kind = "bf16" if precision == "auto" and torch.cuda.is_available() else precision
        # Fabric reads the number of processes from torchrun's environment; alone, it is one process.
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
        self._fabric: Any = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=nodes,
            strategy="ddp" if local * nodes > 1 else "auto",
            precision=_PRECISIONS.get(kind, "32-true"),
        )
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.world: int = self._fabric.world_size
        self._optimizers: dict[int, Any] = {}
        self._share = 1.0

    def prepare(self, student: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        module, wrapped = self._fabric.setup(student, optimizer)
        self._optimizers[id(optimizer)] = wrapped
        prepared: nn.Module = module
        return prepared

    def place(self, batch: Batch) -> Batch:
        count = len(batch)
        mine = slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)
        self._share = (mine.stop - mine.start) * self.world / count
        share = replace(
            batch,
            ids=batch.ids[mine],
            inputs={name: view[mine] for name, view in batch.inputs.items()},
            target=batch.target[mine],
            tasks={name: target[mine] for name, target in batch.tasks.items()},
            labelled=None if batch.labelled is None else batch.labelled[mine],
        )
        return move(share, self.device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        context: contextlib.AbstractContextManager[object] = self._fabric.autocast()
        return context

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        if self.world > 1:
            everyone = [p for group in optimizer.param_groups for p in group["params"]]
            loss = _Everyone.apply(loss, *everyone)  # type: ignore[no-untyped-call]
        self._fabric.backward(loss if self._share == 1.0 else loss * self._share)

    def gradient_norm(self, parameters: Sequence[nn.Parameter], clip: float | None) -> float | None:
        return norm_of_gradient(parameters, clip)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers[id(optimizer)].step()

    def seed(self, seed: int, step: int) -> None:
        seed_generators(self.device, seed * self.world + self.rank, step)

    def scaler_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        # Fabric's precision plug-in has one scaler for all optimizers.
        state: dict[str, Any] = self._fabric._precision.state_dict()
        return state

    def load_scaler_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        if state:
            self._fabric._precision.load_state_dict(dict(state))

    def barrier(self) -> None:
        self._fabric.barrier()


class _Everyone(torch.autograd.Function):
    """The loss as it is, with a path to every parameter: processes wait for each other's gradients of all of them.

    A connector whose term weighs 0 just now, or a layer behind the only one that a hint reads, has none of its own.
    """

    @staticmethod
    def forward(ctx: object, loss: Tensor, *parameters: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], *(None for _ in ctx.needs_input_grad[1:])  # type: ignore[attr-defined]
