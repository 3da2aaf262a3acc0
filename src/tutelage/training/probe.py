"""Whether to keep images in channels-last order: by a rule where bits must repeat, measured where speed is all.

The order of memory changes the order of sums, hence the last bits of a result. A measurement falls one way today and
the other way tomorrow, so a run that promises the same bits goes by a rule that looks at the model alone.
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

__all__ = ["pays_channels_last", "suits_channels_last"]

_ROUNDS = 7


def suits_channels_last(model: nn.Module, example: Tensor) -> bool:
    """Whether channels-last usually pays for a model like this on a CPU, from its shape alone.

    Measured on two cores, training, time against the plain order: depthwise convolutions 0.72, convolutions of 64 to
    128 channels 0.83 to 0.90, of 16 to 32 channels 0.87 to 1.09, ResNet-18 (64 to 512 channels) 1.08.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if example.ndim != 4 or not convolutions or example.device.type != "cpu":
        return False
    width = sum(m.out_channels for m in convolutions) / len(convolutions)
    return any(m.groups > 1 for m in convolutions) or 32 < width <= 160


def pays_channels_last(model: nn.Module, example: Tensor, *, learns: bool) -> bool:
    """Whether channels-last is faster by more than 5 % for this model and batch: measured once, then remembered.

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
