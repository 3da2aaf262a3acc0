"""Where steps run: one small face, plain torch behind it here, Lightning Fabric behind it for many processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, TrainingError
from tutelage.types import Batch

__all__ = [
    "Device",
    "PlainDevice",
    "move",
    "norm_of_gradient",
    "resolve_device",
    "resolve_precision",
    "seed_generators",
]

_MASK = (1 << 63) - 1


class Device(Protocol):
    """What the loop asks of the machine."""

    device: torch.device
    rank: int
    world: int

    def prepare(self, student: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """The student as the loop should call it; `student` itself keeps the weights."""
        ...

    def place(self, batch: Batch) -> Batch:
        """This process's share of a batch, on this device."""
        ...

    def autocast(self) -> contextlib.AbstractContextManager[object]: ...

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None: ...

    def gradient_norm(self, parameters: Sequence[nn.Parameter], clip: float | None) -> float | None:
        """The norm of the gradient, clipped afterwards if asked; None where a scaler judges it instead."""
        ...

    def step(self, optimizer: torch.optim.Optimizer) -> None: ...

    def seed(self, seed: int, step: int) -> None:
        """Make what is random in the coming forward pass a function of (seed, step)."""
        ...

    def scaler_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The numbers of the fp16 scaler of an optimizer; empty where there is none."""
        ...

    def load_scaler_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None: ...

    def barrier(self) -> None: ...


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` -> a device that is there.

    Raises:
        InputError: it is not.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device `{name}`", where="device", expected="auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"CUDA is not available (torch {torch.__version__})", where="device", fix="use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no {name}", where="device", given=f"{torch.cuda.device_count()} CUDA device(s)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("MPS is not available on this machine", where="device", fix="use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"no device `{name}`", where="device", expected="auto, cpu, cuda, cuda:N or mps")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """`32`, `bf16`, `fp16`, or `auto`: bf16 only where the hardware computes in it.

    On CPUs without bf16 units autocast was measured 1.6 to 1.8 times slower than float32, so `auto` asks first.
    """
    if name == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float32
    return {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


@final
class PlainDevice:
    """One device, plain torch."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.device = device or torch.device("cpu")
        self._dtype = dtype
        self._cpu = self.device.type == "cpu"
        # fp16 gradients underflow without a scale; bf16 has float32's range and needs none.
        self._scalers: dict[int, torch.amp.GradScaler] = {}
        self._skipped = 0
        self._taken = 0

    def prepare(self, student: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        if self._dtype is torch.float16:
            self._scalers[id(optimizer)] = torch.amp.GradScaler(self.device.type)
        return student.to(self.device)

    def place(self, batch: Batch) -> Batch:
        return batch if self._cpu else move(batch, self.device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        scaler = self._scalers.get(id(optimizer))
        (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
        if scaler:
            scaler.unscale_(optimizer)

    def gradient_norm(self, parameters: Sequence[nn.Parameter], clip: float | None) -> float | None:
        norm = norm_of_gradient(parameters, clip)
        return None if self._scalers else norm

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        scaler = self._scalers.get(id(optimizer))
        if scaler is None:
            optimizer.step()
            return
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        self._taken += 1
        self._skipped += scaler.get_scale() < before
        if self._taken >= 200 and self._skipped > self._taken / 2:
            raise TrainingError(
                "the fp16 scaler skips most steps", given=f"{self._skipped} of {self._taken}", fix="use precision bf16"
            )

    def seed(self, seed: int, step: int) -> None:
        seed_generators(self.device, seed, step)

    def scaler_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        scaler = self._scalers.get(id(optimizer))
        return {} if scaler is None else scaler.state_dict()

    def load_scaler_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        scaler = self._scalers.get(id(optimizer))
        if scaler is not None and state:
            scaler.load_state_dict(dict(state))

    def barrier(self) -> None: ...


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    return replace(
        batch,
        ids=batch.ids.to(device, non_blocking=True),
        inputs={name: view.to(device, non_blocking=True) for name, view in batch.inputs.items()},
        target=batch.target.to(device, non_blocking=True),
        labelled=None if batch.labelled is None else batch.labelled.to(device, non_blocking=True),
        tasks={name: target.to(device, non_blocking=True) for name, target in batch.tasks.items()},
    )


def norm_of_gradient(parameters: Sequence[nn.Parameter], clip: float | None) -> float:
    """The 2-norm over all gradients, clipped in place to `clip` if that is smaller."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    # One kernel call for all tensors: on a small student a loop over them would cost as much as the optimizer.
    norms = torch._foreach_norm(gradients)
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    if clip is not None and norm > clip and math.isfinite(norm):
        torch._foreach_mul_(gradients, clip / norm)
    return norm


def seed_generators(device: torch.device, seed: int, step: int) -> None:
    """Seed torch's generators from (seed, step), by an odd multiplier so that neighbours do not meet."""
    number = ((seed + 1) * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) & _MASK
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
