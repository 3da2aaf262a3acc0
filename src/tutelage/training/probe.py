"""Whether images in channels-last order train faster on this machine: measured once, then remembered.

The order of memory changes the order of sums, hence the last bits of a result. So the answer for one model on one
machine is kept in the cache folder, and a resumed or repeated run takes the same one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import time

import torch
from torch import Tensor, nn

from tutelage.files import cache_folder, read_json, write_json

__all__ = ["pays_channels_last"]

_ROUNDS = 7


def pays_channels_last(model: nn.Module, example: Tensor, *, learns: bool) -> bool:
    """Whether channels-last is faster by more than 5 % for this model and batch.

    Args:
        model: is copied, not touched.
        example: a batch as the model will see it, (B, …); anything but (B, C, H, W) answers False.
        learns: measure a forward and a backward pass, or a forward pass alone.
    """
    if example.ndim != 4 or not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        return False
    facts = f"{model}|{tuple(example.shape)}|{learns}|{torch.__version__}|{torch.get_num_threads()}|{example.device}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    path = cache_folder() / "probes" / f"{key}.json"
    if path.is_file():
        return bool(read_json(path)["channels_last"])
    seconds = _measure(model, example, learns)
    ratio = seconds[1] / seconds[0]
    write_json(path, {"channels_last": ratio < 0.95, "ratio": ratio, "facts": json.dumps(facts)[:2000]})
    return ratio < 0.95


def _measure(model: nn.Module, example: Tensor, learns: bool) -> tuple[float, float]:
    formats = (torch.contiguous_format, torch.channels_last)
    models = [copy.deepcopy(model).train(learns).to(memory_format=f) for f in formats]  # type: ignore[call-overload]
    views = [example.contiguous(memory_format=f) for f in formats]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for which in (0, 1):
            start = time.perf_counter()
            with torch.set_grad_enabled(learns):
                logits = models[which](views[which])
                if learns:
                    logits.square().mean().backward()
            if example.is_cuda:
                torch.cuda.synchronize()
            times[which].append(time.perf_counter() - start)
    # The first round pays for allocations.
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])
