"""What a model costs to keep and to ask: parameters, bytes on disk, and time per call.

Times of two models mean something only side by side: one thread for all, warmed up, in turns of random order, so that a
clock that drifts or a neighbour that wakes up hits every model alike.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.errors import InputError

WARM_UP = 10
LEAST_ROUNDS = 5
MOST_ROUNDS = 1000
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per call for one batch size; the interval belongs to the median."""

    batch: int
    p50_ms: float
    ci_low_ms: float
    ci_high_ms: float
    p90_ms: float
    n: int  # timed calls
    threads: int

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def parameters(model: nn.Module) -> int:
    """How many numbers the model learned; a shared tensor counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of the matrix products and convolutions of one forward pass for one example.

    Args:
        model: to be counted, in evaluation mode; its mode is restored.
        example: (1, …), on the model's device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with _quiet([model], torch.get_num_threads()), FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2


def speed_ratio(slow: Sequence[float], fast: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster one of two models is that were timed in turns: ratio of medians, with its 95 % interval.

    Args:
        slow: (n,) times of the one, round by round.
        fast: (n,) times of the other in the same rounds.
        seed: of the bootstrap.

    The bootstrap draws rounds, so that a moment that was slow for both is drawn for both.
    """
    pairs = np.stack([np.asarray(slow), np.asarray(fast)])
    draws = np.random.default_rng(seed).integers(0, pairs.shape[1], size=(_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    middle = np.median(pairs, axis=1)
    return float(middle[0] / middle[1]), float(low), float(high)


def file_bytes(path: Path) -> int:
    """Bytes of the file that ships."""
    return path.stat().st_size


def latency(
    models: Mapping[str, nn.Module],
    example_batch: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    seconds: float = 3.0,
    seed: int = 0,
) -> dict[str, list[Latency]]:
    """Time every model on the same inputs, in turns: a list by batch size for every name.

    Args:
        models: name -> model; all are timed in evaluation mode, and their mode is restored.
        example_batch: inputs on the models' device; repeated or cut to each batch size.
        batch_sizes: examples per call.
        threads: intra-op threads while timing; restored afterwards.
        seconds: aim for the total. It is exceeded only by models so slow that a few rounds take longer.
        seed: for the order of turns and the bootstrap.
    """
    found: dict[str, list[Latency]] = {name: [] for name in models}
    for batch, times in timings(
        models, example_batch, batch_sizes, threads=threads, seconds=seconds, seed=seed
    ).items():
        for name, values in times.items():
            found[name].append(summary(values, batch, threads, seed))
    return found


def timings(
    models: Mapping[str, nn.Module],
    example_batch: Tensor,
    batch_sizes: Sequence[int],
    *,
    threads: int,
    seconds: float,
    seed: int = 0,
) -> dict[int, dict[str, list[float]]]:
    """Seconds per call, round by round: batch size -> model -> (n,); see `latency`."""
    if not models or example_batch.shape[0] == 0 or min(batch_sizes, default=0) < 1:
        raise InputError(
            "nothing to time",
            given=f"{len(models)} models, {example_batch.shape[0]} examples, batch sizes {tuple(batch_sizes)}",
            expected="at least one model, one example, and batch sizes of 1 or more",
        )
    found: dict[int, dict[str, list[float]]] = {}
    with _quiet(models.values(), threads):
        for batch in batch_sizes:
            rows = torch.arange(batch, device=example_batch.device) % example_batch.shape[0]
            shuffler = random.Random(seed)  # noqa: S311  an order of turns is no secret
            found[batch] = _in_turns(models, example_batch[rows], seconds / len(batch_sizes), shuffler)
    return found


def _in_turns(
    models: Mapping[str, nn.Module], inputs: Tensor, budget: float, shuffler: random.Random
) -> dict[str, list[float]]:
    """Seconds per call for every model; a round calls each once, in a fresh order."""
    end = time.perf_counter() + budget
    for done in range(WARM_UP):
        if done >= 2 and time.perf_counter() > end:  # a giant on one thread: better a short warm-up than minutes
            break
        for model in models.values():
            _timed(model, inputs)
    names, times = list(models), {name: list[float]() for name in models}
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        shuffler.shuffle(names)
        for name in names:
            times[name].append(_timed(models[name], inputs))
    return times


def _timed(model: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    model(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start


def summary(seconds: Sequence[float], batch: int, threads: int, seed: int = 0) -> Latency:
    """Median with its interval, and the 90th percentile, of times per call."""
    milliseconds = np.asarray(seconds) * 1e3
    p50, p90 = np.percentile(milliseconds, [50, 90])
    draws = np.random.default_rng(seed).choice(milliseconds, size=(_RESAMPLES, milliseconds.size))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Latency(batch, float(p50), float(low), float(high), float(p90), int(milliseconds.size), threads)


@contextlib.contextmanager
def _quiet(models: Iterable[nn.Module], threads: int) -> Iterator[None]:
    """Evaluation mode, pinned threads, no gradient and no garbage collection, all restored at the end."""
    held = list(models)
    modes = [(module, module.training) for model in held for module in model.modules()]
    before, collecting = torch.get_num_threads(), gc.isenabled()
    try:
        torch.set_num_threads(threads)
        gc.disable()
        for model in held:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
        for module, mode in modes:
            module.training = mode
