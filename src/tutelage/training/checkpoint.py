"""Where a cohort stands, on disk: whole or absent, and checked before it is believed.

    <folder>/step-001240/model.safetensors   the students' weights, "<arm>/<name>", and what learns along, "<arm>+/…"
                         best.safetensors    the best epoch's weights by validation
                         optim.safetensors   the optimizers' tensors, "<arm>/<parameter>.<name>"
                         state.json          counters, curves, the optimizers' numbers
                         DONE                size and SHA-256 of the four
    <folder>/last                            the newest folder's name

A folder is written under a temporary name and renamed when it is complete. The teacher is never in it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tutelage.errors import DamagedError
from tutelage.files import read_json, sha256, sync_folder, write_bytes, write_json, write_text
from tutelage.training.arm import Arm
from tutelage.training.device import Device, PlainDevice
from tutelage.training.loop import Cohort, Listener, Moment

__all__ = ["Checkpoints"]

_FILES = ("model.safetensors", "best.safetensors", "optim.safetensors", "state.json")


@final
class Checkpoints(Listener):
    """Saves a cohort every so often, and takes it up again.

    Args:
        folder: holds the checkpoints of one cohort.
        seconds: save at the first step after this long.
        keep: how many to keep.
        tell: where to say that a damaged one was passed over.
        device: whose fp16 scalers are saved along.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float = 30.0,
        keep: int = 2,
        tell: Callable[[str], None] = lambda _: None,
        device: Device | None = None,
    ) -> None:
        self.folder = folder
        self._device = device or PlainDevice()
        self._seconds = seconds
        self._keep = keep
        self._tell = tell
        self._next = time.monotonic() + seconds

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        if time.monotonic() >= self._next:
            self.save(cohort)

    def on_end(self, cohort: Cohort, at: Moment) -> None:
        self.save(cohort)

    def save(self, cohort: Cohort) -> None:
        """Write a checkpoint, point to it, and remove the oldest."""
        at = cohort.at
        model: dict[str, Tensor] = {}
        best: dict[str, Tensor] = {}
        optim: dict[str, Tensor] = {}
        arms: dict[str, Any] = {}
        for arm in cohort.arms:
            model |= {f"{arm.name}/{name}": value for name, value in arm.student.state_dict().items()}
            if arm.extras is not None:
                model |= {f"{arm.name}+/{name}": value for name, value in arm.extras.state_dict().items()}
            best |= {f"{arm.name}/{name}": value for name, value in arm.best.items()}
            tensors, numbers = _split_optimizer(arm.optimizer)
            optim |= {f"{arm.name}/{name}": value for name, value in tensors.items()}
            arms[arm.name] = arm.state() | {"optimizer": numbers, "scaler": self._device.scaler_state(arm.optimizer)}
        state = {
            "format": 1,
            "cohort": cohort.name,
            "epoch": at.epoch,
            "within": at.within,
            "step": at.step,
            "arms": arms,
        }
        name = f"step-{at.step:07d}"
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        for file, tensors in zip(_FILES, (model, best, optim), strict=False):
            write_bytes(temporary / file, save_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
        write_text(temporary / "state.json", json.dumps(state))
        sums = {
            file: {"bytes": (temporary / file).stat().st_size, "sha256": sha256(temporary / file)} for file in _FILES
        }
        write_json(temporary / "DONE", sums)
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync_folder(self.folder)
        write_text(self.folder / "last", name + "\n")
        for old in self._found()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        self._next = time.monotonic() + self._seconds

    def restore(self, cohort: Cohort, *, device: torch.device) -> bool:
        """Take up the newest whole checkpoint; False where there is none yet.

        Raises:
            DamagedError: there are checkpoints, and every one is damaged.
        """
        found = self._found()
        for folder in reversed(found):
            fault = _fault(folder)
            if fault is None:
                self._load(cohort, folder, device)
                return True
            self._tell(f"checkpoint {folder.name} is damaged ({fault}); looking for an older one")
        if found:
            raise DamagedError(
                f"every checkpoint in {self.folder} is damaged", fix=f"remove {self.folder} to train this part again"
            )
        return False

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _load(self, cohort: Cohort, folder: Path, device: torch.device) -> None:
        model, best, optim = (load_tensors((folder / file).read_bytes()) for file in _FILES[:3])
        state = read_json(folder / "state.json")
        cohort.at.epoch, cohort.at.within, cohort.at.step = state["epoch"], state["within"], state["step"]
        for arm in cohort.arms:
            if arm.name not in state["arms"]:
                raise DamagedError(f"{folder} has no arm `{arm.name}`", given=", ".join(state["arms"]))
            saved = state["arms"][arm.name]
            arm.student.load_state_dict(_under(model, arm.name))
            if arm.extras is not None:
                arm.extras.load_state_dict(_under(model, f"{arm.name}+"))
            arm.best = {name: value.to(device) for name, value in _under(best, arm.name).items()}
            _join_optimizer(arm, _under(optim, arm.name), saved["optimizer"])
            self._device.load_scaler_state(arm.optimizer, saved["scaler"])
            arm.load_state(saved)


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = read_json(folder / "DONE")
    except DamagedError:
        return "it is not complete"
    for file in _FILES:
        path = folder / file
        if not isinstance(sums.get(file), dict) or {"bytes", "sha256"} - set(sums[file]):
            return "its list of sums was altered"
        if not path.is_file():
            return f"{file} is missing"
        if path.stat().st_size != sums[file]["bytes"]:
            return f"{file} has {path.stat().st_size} bytes, not {sums[file]['bytes']}"
        if sha256(path) != sums[file]["sha256"]:
            return f"{file} was altered"
    return None


def _under(tensors: Mapping[str, Tensor], arm: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{arm}/"): value for name, value in tensors.items() if name.startswith(f"{arm}/")}


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors and numbers for JSON."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {"state": {}, "param_groups": whole["param_groups"]}
    for index, slots in whole["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers["state"].setdefault(str(index), {})[name] = value
    return tensors, numbers


def _join_optimizer(arm: Arm, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(i): dict(slots) for i, slots in numbers["state"].items()}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = arm.parameters[int(index)]
        if value.shape == like.shape:
            # Files hold plain order; fused kernels want moments in the memory order of their parameter.
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    arm.optimizer.load_state_dict({"state": state, "param_groups": numbers["param_groups"]})
