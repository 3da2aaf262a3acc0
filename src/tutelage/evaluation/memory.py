"""What a model needs in memory for one forward pass: its weights, and the most that the pass holds besides at once.

On the processor Linux tells it: the high-water mark of the process is set back to what is resident now, the pass is
made, and the mark is read. The kernel counts pages roughly, so differences below half a MiB mean nothing. On a graphics
card PyTorch's allocator keeps the mark. Elsewhere nobody tells it exactly, so the answer is None rather than a guess.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["high_water", "peak_bytes", "weight_bytes"]

PROC = Path("/proc/self")
_SET_BACK = "5"  # proc_pid_clear_refs(5): the peak of resident memory is set to what is resident now
_NEAR = 4 << 20  # a mark this far above what is resident was not set back, whatever the kernel says


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; shared memory counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_bytes(model: nn.Module, inputs: Tensor, *, proc: Path = PROC) -> int | None:
    """Bytes of a model's weights and of the most that one forward pass holds besides; None where nobody tells.

    Args:
        model: in evaluation mode, gradients off.
        inputs: (N, …) on the model's device; they are there already, so they do not count.
        proc: folder where the kernel tells of this process.
    """
    model(inputs)  # what is made only once, such as repacked weights and threads, is there afterwards
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
        torch.cuda.reset_peak_memory_stats(inputs.device)
        rest = torch.cuda.memory_allocated(inputs.device)
        model(inputs)
        torch.cuda.synchronize(inputs.device)
        return weight_bytes(model) + torch.cuda.max_memory_allocated(inputs.device) - rest
    before = _set_back(proc) if inputs.device.type == "cpu" else None
    if before is None:
        return None
    model(inputs)
    peak = high_water(proc)
    return None if peak is None else weight_bytes(model) + max(0, peak - before)


def high_water(proc: Path = PROC) -> int | None:
    """The most bytes of memory that this process ever had resident, or since the mark was set back; None if untold."""
    return _bytes(proc, "VmHWM")


def _set_back(proc: Path) -> int | None:
    """Give free memory back, set the mark to what is resident, and return that; None where the mark does not move."""
    with contextlib.suppress(AttributeError, OSError):  # a C library without it keeps more, and the answer is smaller
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with (proc / "clear_refs").open("w") as file:
            file.write(_SET_BACK)
    except OSError:
        return None
    mark, now = high_water(proc), _bytes(proc, "VmRSS")
    return now if mark is not None and now is not None and mark - now <= _NEAR else None


def _bytes(proc: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (proc / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) << 10
